"""Which numbers are kept in which precision: the whole policy, and the part of it that is a choice of the run.

parameters   float32, and the optimizer's moments: an update of bfloat16 parameters is mostly lost in rounding
compute      `model.dtype`, float32 or bfloat16: activations, factors of products and what tensor-parallel devices
             add up of them. Each product adds up in float32; norms, gates, softmax, logits and the loss are float32
state        float32, always: what a recurrence carries, and decays as sums of float32 logs (`recurrax.ops`). Keys
             and values that attention keeps are in model.dtype
reduction    `precision.reduction`: gradients of matrices, as sums over the rows of a batch and over devices.
             float32 sends twice the bytes of bfloat16. Slices of a batch are added up in float32 either way, and
             so are experts' matrices over devices, each of which rounds its own part
"""

import dataclasses
import re

import jax

from recurrax import checks
from train.sharding import RULES

REDUCTIONS = ("float32", "bfloat16")
MATRICES = "|".join(pattern for pattern, _ in RULES if "embedding" not in pattern)


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
    """What of the policy is a choice of the run."""

    reduction: str = "float32"
    """What matrices' gradients are summed in over rows and devices, where model.dtype is bfloat16."""

    def __post_init__(self):
        object.__setattr__(self, "reduction", checks.dtype_name(self.reduction, REDUCTIONS))
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"precision.reduction={self.reduction!r}: choose one of {', '.join(REDUCTIONS)}")


def for_products(params, config: PrecisionConfig):
    """The parameters as the model gets them: a product's gradient is summed in the dtype that its matrix has there."""

    def cast(path, leaf):
        matrix = re.search(MATRICES, jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf.astype(config.reduction) if matrix else leaf

    if config.reduction == "float32":
        return params
    return jax.tree_util.tree_map_with_path(cast, params)
