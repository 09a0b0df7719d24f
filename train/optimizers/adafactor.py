"""Provides Adafactor: the second moments of a matrix are stored as those of its rows and columns (arXiv 1804.04235)."""

import dataclasses

import optax

from recurrax import checks
from train.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adam's direction with factored second moments, clipped by its root mean square, without a first moment.

    The learning rate is absolute: it is not multiplied by the size of a parameter.
    """

    learning_rate: float = 1e-2
    """Maximal learning rate."""
    decay_power: float = 0.8
    """Power c of the decay factor 1 - t^-c of the second moments at step t."""
    min_dim_to_factor: int = 128
    """Smallest size of a matrix's two largest dimensions at which its moments are factored."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "min_dim_to_factor")
        if not 0 < self.decay_power <= 1:
            raise ValueError(f"optimizer.decay_power must be in (0, 1], got {self.decay_power}")

    def direction(self, declared) -> optax.GradientTransformation:
        factored = optax.scale_by_factored_rms(
            decay_rate=self.decay_power, min_dim_size_to_factor=self.min_dim_to_factor
        )
        return optax.chain(factored, optax.clip_by_block_rms(1.0))
