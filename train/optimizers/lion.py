"""Provides Lion: the direction is the sign of a moving average of gradients (arXiv 2302.06675).

One moment instead of two. The paper uses a tenth to a third of AdamW's learning rate, and three to ten times its decay.
"""

import dataclasses

import optax

from train.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of beta1 * m_{t-1} + (1 - beta1) * g_t."""

    learning_rate: float = 3e-4
    """Maximal learning rate; every entry of an update has this size."""
    weight_decay: float = 1.0
    """Decoupled weight decay of matrices; vectors, embeddings and recurrence parameters are not decayed."""
    beta1: float = 0.9
    """Weight of the moment in the direction."""
    beta2: float = 0.99
    """Decay factor of the moment."""

    normalizes = True

    def __post_init__(self):
        super().__post_init__()
        self._check_averages("beta1", "beta2")

    def direction(self, declared) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta1, self.beta2)
