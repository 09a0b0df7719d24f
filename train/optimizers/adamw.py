"""Provides AdamW: the direction is m_t / (sqrt(v_t) + eps), moving averages of g and g^2 (arXiv 1711.05101)."""

import dataclasses

import optax

from train.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    beta1: float = 0.9
    """Decay factor of the first moment."""
    beta2: float = 0.95
    """Decay factor of the second moment."""

    normalizes = True

    def __post_init__(self):
        super().__post_init__()
        self._check_averages("beta1", "beta2")

    def direction(self, declared) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2)
