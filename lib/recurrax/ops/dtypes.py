"""Determine the dtype in which ops and layers compute: at least float32, under each of JAX's promotion rules.

`jax_numpy_dtype_promotion="strict"` refuses to combine arrays of two dtypes. Ops mix dtypes on purpose (bfloat16
inputs, float32 states), so they name the dtype of their arithmetic here and cast to it.
"""

import jax
import jax.numpy as jnp

from recurrax.types import Array, ArrayLike, Dtype


def common_dtype(*values: ArrayLike | Dtype | None) -> jnp.dtype:
    """Return the smallest dtype that represents the numbers of all these arrays and dtypes; None is skipped."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(value for value in values if value is not None))


def wide_dtype(*values: ArrayLike | Dtype | None) -> jnp.dtype:
    """Return the common dtype of all values, at least float32 or complex64."""
    return common_dtype(jnp.float32, *values)


def upcast(x: ArrayLike) -> Array:
    """Return x in float32 or complex64, or in its own dtype if that is wider."""
    return jnp.asarray(x).astype(wide_dtype(x.dtype))


def complexify(x: ArrayLike) -> Array:
    """Return a real x as complex64 or complex128."""
    return jnp.asarray(x).astype(wide_dtype(x.dtype, jnp.complex64))
