"""Defines the precision of parameters, activations, states and gradients, and the part of it that a run can choose.

parameters   float32, as are the optimizer's moments: an update of bfloat16 parameters is mostly lost in rounding
compute      `model.dtype`, float32 or bfloat16: activations, operands of matrix products, and the sums of their
             results over tensor-parallel devices. Each matrix product accumulates in float32; norms, gates, softmax,
             logits and the loss are float32
state        always float32: the states of recurrences, and decays as sums of float32 logs (`recurrax.ops`). The keys
             and values in the caches of attention have model.dtype
reduction    `precision.reduction`: gradients of matrices and heads (the roles in `recurrax.parameters`), as sums over
             the rows of a batch and over devices, except of those with which a layer computes in float32. float32
             sends twice the bytes of bfloat16. Slices of a batch are always accumulated in float32, and so are
             gradients of experts' matrices over devices, each of which rounds its own part
"""

import dataclasses
from collections.abc import Mapping

import jax

from recurrax import checks
from recurrax.parameters import Parameter
from recurrax.patterns import by_path

REDUCTIONS = ("float32", "bfloat16")
ROUNDED = ("matrix", "head")
"""Roles of parameters whose gradients are summed in `reduction`."""


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
    """The part of the precision policy that a run can choose."""

    reduction: str = "float32"
    """Dtype in which gradients of matrices are summed over rows and devices, if model.dtype is bfloat16."""

    def __post_init__(self):
        object.__setattr__(self, "reduction", checks.dtype_name(self.reduction, REDUCTIONS))
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"precision.reduction={self.reduction!r}: choose one of {', '.join(REDUCTIONS)}")


def for_products(params, declared: Mapping[str, Parameter], config: PrecisionConfig):
    """Return the parameters for the model, matrices cast to `reduction`: their gradients are summed in their dtype."""

    def cast(leaf, parameter):
        return leaf.astype(config.reduction) if parameter.role in ROUNDED and not parameter.wide else leaf

    if config.reduction == "float32":
        return params
    return jax.tree.map(cast, params, by_path(params, declared))
