"""Provide the operations that layers apply to every token with their parameters: matrix product, scale, shift.

In bfloat16 they multiply bfloat16 numbers. But the gradient of a parameter, a sum over all tokens of a batch and over
devices, is summed in the parameter's dtype and not rounded in between. Gradients of half-precision scales and shifts
are summed in float32 and rounded once.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.ops import sharding
from recurrax.ops.differentiation import custom_vjp, is_forward_mode
from recurrax.ops.dtypes import common_dtype, wide_dtype
from recurrax.ops.platforms import per_platform, table
from recurrax.types import Dtype

BLOCK = 128
"""Number of rows of a sum over tokens that are added sequentially."""


def linear(x: Float[Array, "*batch D"], kernel: Float[Array, "D E"]) -> Float[Array, "*batch E"]:
    """Return x @ kernel in x's dtype.

    Batch and time are merged first, so that the kernel's gradient is one matrix product: XLA's CPU backend takes three
    times as long for the same sum over two axes. If a mesh splits time, they stay separate.
    """
    checks.not_empty("x", x)
    if sharding.splits_time():
        rows = "abc"[: x.ndim - 1]
        return contract(f"{rows}d,de->{rows}e", x, kernel)
    return contract("nd,de->ne", x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def contract(
    spec: str, x: Float[Array, "..."], kernel: Float[Array, "..."], dtype: Dtype | None = None
) -> Float[Array, "..."]:
    """Return einsum(spec, x, kernel) of factors in x's dtype, in `dtype`; None is x's dtype."""
    checks.not_empty("x", x)
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    if is_forward_mode() or (dtype == x.dtype and _as_wide(x, kernel)):
        return jnp.einsum(spec, x, kernel.astype(x.dtype), preferred_element_type=dtype)
    # The matrix product stays outside of the custom VJP, so that policies of jax.checkpoint can select it.
    y = jnp.einsum(spec, x, jax.lax.stop_gradient(kernel).astype(x.dtype), preferred_element_type=dtype)
    return _and_the_kernels_gradient(y, x, kernel, spec, kernel.dtype)


def scale(x: Float[Array, "..."], vector: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x * vector in x's dtype; the vector has the last axes of x."""
    return _scale(x, _leading(vector, x))


def shift(x: Float[Array, "..."], vector: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x + vector in x's dtype; the vector has the last axes of x."""
    return _shift(x, _leading(vector, x))


@functools.partial(custom_vjp, nondiff_argnums=(3, 4))
def _and_the_kernels_gradient(y, x, kernel, spec, dtype):
    """Return y. The backward pass also computes the kernel's gradient einsum(x, dy), accumulated in its dtype."""
    return y


def _kernels_gradient(spec, dtype, x, dy):
    of_x, of_kernel, of_y = spec.replace("->", ",").split(",")
    summed = common_dtype(x.dtype, dtype)  # the common dtype of bfloat16 and float16 is float32
    dkernel = jnp.einsum(f"{of_x},{of_y}->{of_kernel}", x, dy.astype(x.dtype), preferred_element_type=summed)
    return dy, None, dkernel.astype(dtype)


@custom_vjp
def _scale(x, vector):
    return x * vector.astype(x.dtype)


def _scale_back(saved, dy):
    x, vector = saved
    wide = wide_dtype(vector.dtype)
    return dy * vector.astype(x.dtype), _sum(x.astype(wide) * dy.astype(wide), vector).astype(vector.dtype)


@custom_vjp
def _shift(x, vector):
    return x + vector.astype(x.dtype)


def _shift_back(vector, dy):
    return dy, _sum(dy.astype(wide_dtype(vector.dtype)), vector).astype(vector.dtype)


_and_the_kernels_gradient.defvjp(lambda y, x, kernel, spec, dtype: (y, x), _kernels_gradient)
_scale.defvjp(lambda x, vector: (_scale(x, vector), (x, vector)), _scale_back)
_shift.defvjp(lambda x, vector: (_shift(x, vector), vector), _shift_back)


def _as_wide(x, parameter):
    """Return whether x has the parameter's precision: then nothing is rounded, and forward mode works as well."""
    return common_dtype(x.dtype, parameter.dtype) == x.dtype


def _leading(vector, x):
    """Return the vector with leading axes of size 1, up to the rank of x."""
    checks.not_empty("x", x)
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def _sum(x, vector):
    """Sum x over the axes along which the vector has size 1.

    On a CPU the sum is a matrix product with ones per block of rows: a long running sum would lose two decimal digits.
    XLA's loop for a sum over leading axes runs down each column separately and recomputes the summands for each: the
    gradients of the four taps of a short convolution took longer than all matrix products of its layer.
    """
    axes = [axis for axis, size in enumerate(vector.shape) if size == 1]
    leading = axes == list(range(len(axes))) and len(axes) < vector.ndim
    if not leading or sharding.splits_time():
        return x.sum(axes, keepdims=True)

    def add(by_products, x):
        if not by_products:
            return x.sum(axes, keepdims=True)
        rows = x.reshape(-1, vector.size)
        size = min(len(rows), BLOCK)
        blocks = jnp.pad(rows, ((0, -len(rows) % size), (0, 0))).reshape(-1, size, vector.size)
        return jnp.einsum("r,brn->bn", jnp.ones(size, x.dtype), blocks).sum(0).reshape(vector.shape)

    return per_platform(add, table(lambda platform: platform == "cpu"), x)
