"""Provides Muon: the direction of a matrix is its momentum, made orthogonal by Newton-Schulz iterations.

The matrices are the parameters whose role is "matrix" with two dimensions, each layer and each expert by itself; AdamW
trains all others. Directions are scaled to the root mean square that AdamW's have, so that one learning rate and one
weight decay serve both (Liu et al., Muon is scalable for LLM training, arXiv 2502.16982).
"""

import dataclasses

import optax
from optax import contrib

from recurrax import checks
from recurrax.parameters import Parameter
from recurrax.patterns import by_path
from train.optimizers.base import Optimizer

STACKED = ("layers", "experts", "blocks")
"""Axes along which a parameter is a stack of matrices."""
ADAM_RMS = 0.2
"""Root mean square of AdamW's directions, as measured by the paper."""


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalised momentum for matrices, AdamW for all other parameters."""

    momentum: float = 0.95
    """Decay factor of the momentum of matrices."""
    iterations: int = 5
    """Number of Newton-Schulz iterations."""
    beta1: float = 0.9
    """Decay factor of AdamW's first moment."""
    beta2: float = 0.95
    """Decay factor of AdamW's second moment."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "iterations")
        self._check_averages("momentum", "beta1", "beta2")

    def direction(self, declared) -> optax.GradientTransformation:
        axes = {path: matrix_axes(parameter) for path, parameter in declared.items()}
        return contrib.muon(
            learning_rate=-1.0,  # a direction: it is subtracted later
            ns_steps=self.iterations,
            beta=self.momentum,
            adam_b1=self.beta1,
            adam_b2=self.beta2,
            consistent_rms=ADAM_RMS,
            muon_weight_dimension_numbers=lambda params: by_path(params, axes),
        )


def matrix_axes(parameter: Parameter) -> contrib.MuonDimensionNumbers | None:
    """Return the two dimensions of a matrix, or None for parameters that AdamW trains."""
    own = [i for i, axis in enumerate(parameter.axes) if axis not in STACKED]
    return contrib.MuonDimensionNumbers(*own) if parameter.role == "matrix" and len(own) == 2 else None
