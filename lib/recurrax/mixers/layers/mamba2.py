"""Mamba-2's state space dual layer (Dao and Gu, 2024, arXiv 2405.21060).

    [u, b, c] = silu(conv([W_u x, W_b x, W_c x]))   dt_t = softplus(W_dt x_t + dt_bias), per head
    S_t = e^{-exp(A_log) dt_t} S_{t-1} + b_t (dt_t u_t)^T
    o_t = S_t^T c_t + D u_t
    y_t = W_out RMSNorm(o_t * silu(W_z x_t))        the norm over each group of heads

Linear attention with queries c, keys b and values dt u. The heads of a group share b and c.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention, scale
from recurrax.ops.dtypes import upcast
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class Mamba2(MixerConfig):
    """A Mamba-2 layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Value size per head, P; None is 2 dim / num_heads."""
    state_dim: int = 128
    """Query and key size, N."""
    num_groups: int = 1
    """Number of groups of heads that share keys and queries, G."""
    conv_width: int = 4
    """Number of taps of the short convolutions."""
    dt_min: float = 1e-3
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation."""
    dt_limit: tuple[float, float] = (0.0, float("inf"))
    """Range to which step sizes dt are clipped."""
    norm_eps: float = 1e-5
    """Epsilon added to each group's mean square in the norm."""

    def __post_init__(self):
        checks.hashable(self)
        names = ("num_heads", "head_dim", "state_dim", "num_groups", "conv_width", "dt_min", "dt_max", "norm_eps")
        checks.positive(self, *names)
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_groups {self.num_groups}")
        checks.ordered(self, "dt_min", "dt_max")
        if not 0 <= self.dt_limit[0] < self.dt_limit[1]:
            raise ValueError(f"dt_limit must be a range of steps 0 <= low < high, got {self.dt_limit}")

    def size(self, dim: int) -> int:
        """Return the value size per head, P."""
        return self.head_dim or checks.per_head("head_dim", 2 * dim, self.num_heads)

    def widths(self, dim: int) -> dict[str, int]:
        """Return the widths of the inputs of the convolutions."""
        keys = self.num_groups * self.state_dim
        return {"u": self.num_heads * self.size(dim), "b": keys, "c": keys}

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.size(dim)
        return Mamba2Layer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        shape = (batch_size, self.num_heads, self.state_dim, self.size(dim))
        conv = parts.short_convolution_state(batch_size, self.conv_width, **self.widths(dim))
        return {"s": jnp.zeros(shape, jnp.float32), "conv": conv}


def mamba2(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: Mamba2, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply the SSD layer; the state is {"s": (B, H, N, P) float32, "conv": the last inputs of the convolutions}."""
    state = state or {"s": None, "conv": None}
    inputs = {name: linear(x, params[f"in_{name}"]) for name in "ubc"}
    inputs["u"] = mark("values", inputs["u"])
    inputs, conv = parts.short_convolutions(params, inputs, state["conv"], reset=reset)
    u = parts.heads(inputs["u"], config.num_heads)
    # The heads of a group are adjacent.
    b, c = (
        jnp.repeat(parts.heads(inputs[name], config.num_groups), config.num_heads // config.num_groups, axis=2)
        for name in "bc"
    )
    dt = jax.nn.softplus(upcast(linear(x, params["in_dt"])) + upcast(params["dt_bias"])[None, None])
    dt = jnp.clip(dt, *config.dt_limit)
    log_decay = mark("log_decay", -jnp.exp(upcast(params["a_log"]))[None, None] * dt)
    v = (dt[..., None] * upcast(u)).astype(x.dtype)
    o, s = linear_attention(c, b, v, log_decay, state["s"], scale=1.0, reset=reset)
    o = parts.merge(o + scale(u, params["skip"][:, None]))
    o = parts.heads(o * jax.nn.silu(linear(x, params["in_gate"])), config.num_groups)
    o = scale(parts.merge(parts.rms_norm(o, None, config.norm_eps)), params["norm_scale"])
    return linear(mark("mixed", o), params["out_kernel"]), {"s": mark("matrix_state", s), "conv": conv}


class Mamba2Layer(Mixer):
    """Parameters of `mamba2`: D (3 E + 2 GN + H) + (W + 1) (E + 2 GN) + 3 H + E of them, E = HP."""

    function = staticmethod(mamba2)

    def parameters(self, depth):
        d, h, w, config = self.dim, self.config.num_heads, self.config.conv_width, self.config
        widths = config.widths(d)
        e = widths["u"]
        dt = functools.partial(gates.inverse_softplus_dt, dt_min=config.dt_min, dt_max=config.dt_max)
        return {
            **{f"in_{name}": reads(fan_in, d, width) for name, width in widths.items()},
            **{f"conv_{name}": parts.taps(w, width) for name, width in widths.items()},
            **{f"conv_{name}_bias": vector(zeros, width) for name, width in widths.items()},
            "in_dt": reads(fan_in, d, h),
            "dt_bias": rate(dt, h),
            "a_log": rate(functools.partial(gates.log_uniform_a, low=1.0, high=16.0), h),
            "skip": vector(ones, h),
            "in_gate": reads(fan_in, d, e),
            "norm_scale": vector(ones, e),
            "out_kernel": writes(after_norm, e, d),
        }
