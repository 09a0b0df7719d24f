"""Mamba's selective state space layer (Gu and Dao, 2023, arXiv 2312.00752).

    u = silu(conv(W_u x))                           [r, b, c] = W_s u
    dt_t = softplus(W_dt r_t + dt_bias)             A = -exp(A_log), per channel and state
    h_t = e^{dt_t A} h_{t-1} + (dt_t u_t) b_t^T     N states per channel
    o_t = h_t c_t + D u_t
    y_t = W_out ( o_t * silu(W_z x_t) )

The selection is that step size, input matrix and output matrix depend on the input.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, ones, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, scale, selective_scan
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, expands, rate, reads, vector, writes
from recurrax.types import Dtype, Params, Reset, State


@dataclasses.dataclass(frozen=True)
class Mamba(MixerConfig):
    """A Mamba layer."""

    capabilities = RECURRENT

    width: int | None = None
    """Number of inner channels, E; None is 2 dim."""
    state_dim: int = 16
    """Number of states per channel, N."""
    dt_rank: int | None = None
    """Rank of the step size's matrix, R; None is dim / 16, rounded up."""
    conv_width: int = 4
    """Number of taps of the short convolution."""
    dt_min: float = 1e-3
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation."""
    inner_norm_eps: float | None = None
    """Epsilon of RMS norms without a scale on r, b and c, as in Falcon Mamba; None disables these norms."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))
        checks.ordered(self, "dt_min", "dt_max")

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return E and R."""
        return self.width or 2 * dim, self.dt_rank or math.ceil(dim / 16)

    def layer(self, dim, dtype=jnp.float32, name=None):
        return MambaLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        e, _ = self.sizes(dim)
        conv = parts.short_convolution_state(batch_size, self.conv_width, u=e)
        return {"h": jnp.zeros((batch_size, e, self.state_dim), jnp.float32), "conv": conv}


def mamba(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: Mamba, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply the selective state space; the state is {"h": (B, E, N) float32, "conv": the convolution's last inputs}."""
    state = state or {"h": None, "conv": None}
    inputs = {"u": mark("values", linear(x, params["in_u"]))}
    inputs, conv = parts.short_convolutions(params, inputs, state["conv"], reset=reset)
    u, n = inputs["u"], config.state_dim
    selection = mark("coefficients", linear(u, params["select_kernel"]))
    r, b, c = jnp.split(selection, (selection.shape[-1] - 2 * n, selection.shape[-1] - n), axis=-1)
    if config.inner_norm_eps is not None:
        r, b, c = (parts.rms_norm(array, None, config.inner_norm_eps) for array in (r, b, c))
    dt = jax.nn.softplus(upcast(linear(r, params["dt_kernel"])) + upcast(params["dt_bias"])[None, None])
    dt, a = mark("step", dt), mark("rate", -jnp.exp(upcast(params["a_log"])))
    o, h = selective_scan(u, dt, a, b, c, state["h"], reset=reset)
    o = o + scale(u, params["skip"])
    o = mark("mixed", o * jax.nn.silu(linear(x, params["in_gate"])))
    return linear(o, params["out_kernel"]), {"h": h, "conv": conv}


class MambaLayer(Mixer):
    """Parameters of `mamba`: E (3 D + W + 2 R + 3 N + 3) of them."""

    function = staticmethod(mamba)

    def parameters(self, depth):
        d, n, w, (e, r) = self.dim, self.config.state_dim, self.config.conv_width, self.config.sizes(self.dim)
        dt = functools.partial(gates.inverse_softplus_dt, dt_min=self.config.dt_min, dt_max=self.config.dt_max)
        return {
            "in_u": reads(fan_in, d, e),
            "conv_u": parts.taps(w, e),
            "conv_u_bias": vector(zeros, e),
            "select_kernel": Parameter(fan_in, (e, r + 2 * n), ("inner", None)),
            "dt_kernel": expands(_uniform, r, e),
            "dt_bias": rate(dt, e),
            "a_log": rate(_integers, e, n),
            "skip": vector(ones, e),
            "in_gate": reads(fan_in, d, e),
            "out_kernel": writes(fan_in, e, d),
        }


def _uniform(key: jax.Array, shape: tuple[int, int], dtype: Dtype = jnp.float32) -> Float[Array, "R E"]:
    """Draw uniformly from (-R^-1/2, R^-1/2), which keeps step sizes near those of dt_bias."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _integers(key: jax.Array, shape: tuple[int, int], dtype: Dtype = jnp.float32) -> Float[Array, "E N"]:
    """Initialise A_log such that A = -1, -2, ..., -N in every channel (S4D-Real)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)
