"""RG-LRU in Griffin's recurrent block (De et al., 2024, arXiv 2402.19427).

    block:   y = W_out ( GELU(W_gate x) * rglru(conv(W_in x)) )

    rglru:   r_t = sigmoid(W_a u_t + b_a)              recurrence gate
             i_t = sigmoid(W_i u_t + b_i)              input gate
             log a_t = -c softplus(Lambda) r_t         c = 8
             h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * u_t)

A real diagonal state with input-dependent decay. conv is a causal depthwise convolution of width 4; W_a and W_i are
block-diagonal with one block per head. The authors' models have biases in the block's matrices and start a document
with h_1 = i_1 * u_1 (`bias`, `unit_start`).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import causal_conv1d, diagonal_scan, linear, shift
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class RGLRU(MixerConfig):
    """Griffin's recurrent block."""

    capabilities = RECURRENT

    width: int | None = None
    """Width of the recurrence, E; None is the model's dimension."""
    num_heads: int = 4
    """Number of blocks of the block-diagonal gates, H."""
    conv_width: int = 4
    """Number of taps of the causal convolution, W."""
    c: float = 8.0
    """Scale c of log a, which sets the decay rate of an open gate."""
    bias: bool = False
    """Whether the three matrices of the block have biases."""
    unit_start: bool = False
    """Whether a document's first input enters the state without the factor sqrt(1 - a^2)."""
    a_min: float = 0.9
    """Smallest a at initialisation, for a fully open recurrence gate (a^c in the paper's notation)."""
    a_max: float = 0.999
    """Largest a at initialisation, for a fully open recurrence gate."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "conv_width", "c")
        if not 0 < self.a_min < self.a_max < 1:
            raise ValueError(f"initial decays need 0 < a_min < a_max < 1, got a_min={self.a_min}, a_max={self.a_max}")
        if self.width is not None and (self.width < 1 or self.width % self.num_heads):
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}")

    def layer(self, dim, dtype=jnp.float32, name=None):
        if (self.width or dim) % self.num_heads:
            raise ValueError(f"width {self.width or dim} is not divisible by num_heads {self.num_heads}")
        return RGLRULayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        width = self.width or dim
        conv = jnp.zeros((batch_size, self.conv_width - 1, width), jnp.float32)
        state = {"conv": conv, "h": jnp.zeros((batch_size, width), jnp.float32)}
        return {**state, "started": jnp.zeros((batch_size,), bool)} if self.unit_start else state


def rglru(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: RGLRU, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply Griffin's block; the state is {"conv": the last inputs of the convolution, "h": (B, E) float32}.

    With `unit_start` it also has "started": (B,) bool, whether the document has begun.
    """
    dtype = x.dtype
    state = state or {"conv": None, "h": None, "started": None}

    def affine(x, kernel, bias):
        y = linear(x, params[kernel])
        return shift(y, params[bias]) if config.bias else y

    gate = jax.nn.gelu(affine(x, "in_gate", "bias_gate"))
    u = mark("values", affine(x, "in_kernel", "bias_in"))
    u, conv = causal_conv1d(u, params["conv_kernel"], params["conv_bias"], state["conv"], reset=reset)
    # From here to the state in float32: 1 - a^2 loses all precision in bfloat16 where a is near 1.
    recurrence_gate, input_gate = (
        mark(name, jax.nn.sigmoid(_heads(u, params[f"{name}_kernel"], params[f"{name}_bias"])))
        for name in ("recurrence_gate", "input_gate")
    )
    log_a = mark("log_decay", -config.c * jax.nn.softplus(upcast(params["decay"]))[None, None] * recurrence_gate)
    weight = _sqrt(-jnp.expm1(2 * log_a))
    if config.unit_start:
        weight = jnp.where(_starts(x, state["started"], reset)[..., None], 1, weight)
    h, h_last = diagonal_scan(jnp.exp(log_a), weight * input_gate * upcast(u), state["h"], reset=reset)
    after = {"conv": conv, "h": h_last}
    if config.unit_start:
        after["started"] = jnp.ones((x.shape[0],), bool)
    return affine(mark("mixed", gate * h.astype(dtype)), "out_kernel", "bias_out"), after


def _starts(x, started, reset):
    """Return where documents start, (B, T) bool."""
    first = jnp.ones((x.shape[0],), bool) if started is None else ~started
    starts = first[:, None] & (jnp.arange(x.shape[1]) == 0)[None]
    return starts if reset is None else starts | reset


def _heads(u, kernel, bias):
    """Return u @ block-diagonal kernel (H, E/H, E/H) + bias, in float32."""
    # Upcast first: XLA's CPU backend has no batched matmul of bfloat16 blocks that accumulates in float32.
    blocks = upcast(u).reshape(*u.shape[:-1], kernel.shape[0], kernel.shape[1])
    out = jnp.einsum("bthi,hij->bthj", blocks, upcast(kernel))
    return out.reshape(u.shape) + upcast(bias)[None, None]


def _sqrt(v):
    """Return sqrt(v), with the derivative 0 at 0.

    v = 1 - a^2 is 0 only where the gate has underflowed. There the gate's own derivative, the next factor of the chain
    rule, goes to 0 faster than 1 / sqrt(v) grows.
    """
    positive = v > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1)), 0)


class RGLRULayer(Mixer):
    """Parameters of `rglru`: 3 D E + 2 E^2 / H + (W + 4) E of them, and 2 E + D for the block's biases."""

    function = staticmethod(rglru)

    def parameters(self, depth):
        d, h, w = self.dim, self.config.num_heads, self.config.conv_width
        e = self.config.width or d
        blocks = nn.initializers.lecun_normal(batch_axis=0)
        gate = Parameter(blocks, (h, e // h, e // h), ("blocks", "block", None), wide=True)
        biases = {}
        if self.config.bias:
            biases = {"bias_gate": vector(zeros, e), "bias_in": vector(zeros, e), "bias_out": vector(zeros, d, "embed")}
        return {
            "in_kernel": reads(fan_in, d, e),
            "in_gate": reads(fan_in, d, e),
            "conv_kernel": parts.taps(w, e),
            "conv_bias": vector(zeros, e),
            "recurrence_gate_kernel": gate,
            "recurrence_gate_bias": vector(zeros, e),
            "input_gate_kernel": gate,
            "input_gate_bias": vector(zeros, e),
            "decay": rate(functools.partial(_decays, config=self.config), e),
            "out_kernel": writes(fan_in, e, d),
            **biases,
        }


def _decays(key, shape, dtype, *, config):
    """Initialise Lambda such that a = exp(-c softplus(Lambda)) has a^2 uniform in [a_min^2, a_max^2]."""
    squared = jax.random.uniform(key, shape, dtype, minval=config.a_min**2, maxval=config.a_max**2)
    softplus = -0.5 * jnp.log(squared) / config.c
    return jnp.log(jnp.expm1(softplus))
