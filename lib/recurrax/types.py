"""The one legend of dimension letters, and the array types that signatures are written with.

    B  batch            T  time             H  heads            K  key              V  value
    D  model            N  state            C  chunk            R  rank             W  window, or width of a kernel
    E  width inside a layer                 L  layers           G  groups of layers that repeat the pattern

Shapes in signatures are jaxtyping's: `Float[Array, "B T D"]`. They are plain annotations in production; the tests
check every one of them with beartype.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PRNGKeyArray, PyTree

ArrayLike = jax.Array | np.ndarray
"""What ops accept: they are called with NumPy arrays as often as with JAX's."""

Scalar = float | int | Float[ArrayLike, ""] | Int[ArrayLike, ""]
"""One real number."""

State = PyTree[Array]
"""What a layer carries from one call to the next. Its sizes do not depend on how many tokens it has seen."""

Params = dict[str, Any]
"""Parameters by name: a plain dict of arrays, nested in models."""

Reset = Bool[ArrayLike, "B T"]
"""True where a document starts: everything before that step is forgotten, the incoming state too."""

Dtype = jax.typing.DTypeLike

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Complex",
    "Dtype",
    "Float",
    "Inexact",
    "Int",
    "PRNGKeyArray",
    "Params",
    "PyTree",
    "Reset",
    "Scalar",
    "State",
]
