"""Provides stochastic gradient descent with momentum: m_t = momentum * m_{t-1} + g_t."""

import dataclasses

import optax

from train.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum, optionally by Nesterov's rule."""

    learning_rate: float = 0.1
    """Maximal learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors, embeddings and recurrence parameters are not decayed."""
    momentum: float = 0.9
    """Decay factor of the sum of gradients; 0 stores no sum."""
    nesterov: bool = False
    """Whether the direction is g_t + momentum * m_t instead of m_t."""

    def __post_init__(self):
        super().__post_init__()
        self._check_averages("momentum")

    def direction(self, declared) -> optax.GradientTransformation:
        return optax.trace(self.momentum, self.nesterov) if self.momentum else optax.identity()
