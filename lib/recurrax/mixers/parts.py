"""Provide heads, norms and short convolutions, which layers of several papers use around their recurrence."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.mixers.marks import mark
from recurrax.ops import causal_conv1d
from recurrax.ops.dtypes import upcast, wide_dtype
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import LastTokens
from recurrax.parameters import Parameter
from recurrax.types import Dtype, Params, Reset, State


def heads(x: Float[Array, "B T E"], num_heads: int) -> Float[Array, "B T H K"]:
    """Split E = H K channels into H heads."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def merge(x: Float[Array, "B T H V"]) -> Float[Array, "B T E"]:
    """Concatenate the heads."""
    return x.reshape(*x.shape[:-2], -1)


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"] | None = None, eps: float = 1e-5
) -> Float[Array, "*batch D"]:
    """Return scale * x / sqrt(mean x^2 + eps) over the last axis, in float32 (RMSNorm, arXiv 1910.07467).

    Without a scale this is SimpleRMSNorm.
    """
    wide = upcast(x)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)
    return (wide if scale is None else wide * _last(scale, wide)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*batch D"],
    scale: Float[Array, " D"] | None = None,
    bias: Float[Array, " D"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*batch D"]:
    """Return scale * (x - mean x) / sqrt(var x + eps) + bias over the last axis, in float32 (arXiv 1607.06450)."""
    wide = upcast(x)
    y = rms_norm(wide - mark("coefficients", wide.mean(-1, keepdims=True)), scale, eps)
    return (y if bias is None else y + _last(bias, y)).astype(x.dtype)


def unit_norm(x: Float[Array, "*batch D"], eps: float = 1e-6) -> Float[Array, "*batch D"]:
    """Return x / sqrt(sum x^2 + eps) over the last axis, in float32."""
    wide = upcast(x)
    return (wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + eps)).astype(x.dtype)


def _last(vector, x):
    """Return the upcast vector, broadcast along the last axis of x."""
    return jnp.expand_dims(upcast(vector), tuple(range(x.ndim - 1)))


def short_convolutions(
    params: Params,
    inputs: dict[str, Float[Array, "B T E"]],
    state: State | None,
    *,
    reset: Reset | None,
    activation: Callable = jax.nn.silu,
) -> tuple[dict[str, Float[Array, "B T E"]], State]:
    """Return activation(conv(x)) of every input by name, and the state by the same names.

    The kernel is params["conv_" + name]; the optional bias is params["conv_" + name + "_bias"].
    """
    outputs, after = {}, {}
    for name, x in inputs.items():
        past = None if state is None else state[name]
        y, after[name] = causal_conv1d(x, params[f"conv_{name}"], params.get(f"conv_{name}_bias"), past, reset=reset)
        outputs[name] = activation(y)
    return outputs, after


def short_convolution_state(batch_size: int, conv_width: int, **widths: int) -> State:
    """Return the state of `short_convolutions` before the first token: zeros (B, W - 1, E) by name."""
    return {name: jnp.zeros((batch_size, conv_width - 1, width), jnp.float32) for name, width in widths.items()}


def conv_kernel(key: jax.Array, shape: tuple[int, int], dtype: Dtype = jnp.float32) -> Float[Array, "W E"]:
    """Draw taps of variance 1 / W: the convolution preserves the variance of white noise."""
    return jax.random.normal(key, shape, dtype) * shape[0] ** -0.5


def taps(width: int, channels: int) -> Parameter:
    """Declare the kernel of a short convolution, (W, E)."""
    return Parameter(conv_kernel, (width, channels), (None, "heads"), "vector")


def token_shift(
    x: Float[Array, "B T D"], last: Float[Array, "B D"] | None = None, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], Float[Array, "B D"]]:
    """Return x delayed by one step, 0 where a document starts, and the last input in float32, for the next call."""
    checks.not_empty("x", x)
    shifted, last = _shifted(x, None if last is None else last[:, None], reset)
    return shifted, last[:, 0]


def _last_input(given):
    return given["x"].astype(wide_dtype(given["x"].dtype))


def _no_input(given):
    return jnp.zeros_like(given["x"][:, :1], wide_dtype(given["x"].dtype))


@sharded(
    {"x": "B T", "last": "B", "reset": "B T"},
    results=("B T", "B"),
    state="last",
    summary=LastTokens(_last_input, _no_input),
)
def _shifted(x, last, reset):
    """Return x delayed by one step and the last input (B, 1, D)."""
    first = jnp.zeros_like(x[:, :1]) if last is None else last.astype(x.dtype)
    shifted = jnp.concatenate([first, x[:, :-1]], axis=1)
    if reset is not None:
        shifted = jnp.where(reset[..., None], jnp.zeros((), x.dtype), shifted)
    return shifted, upcast(x[:, -1:])
