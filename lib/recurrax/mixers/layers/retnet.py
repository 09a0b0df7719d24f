"""RetNet's multi-scale retention (Sun et al., 2023, arXiv 2307.08621).

    S_t = gamma_h S_{t-1} + k_t v_t^T               gamma_h = 1 - 2^(-5 - h), the same at every step
    o_t = S_t^T q_t / sqrt(K)                       q and k rotated by their positions
    y_t = W_out ( RMSNorm(o_t) * silu(W_g x_t) )    the norm over each head

Values are twice as wide as keys.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts, rotary
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, small
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention
from recurrax.parameters import reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class RetNet(MixerConfig):
    """A multi-scale retention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H; each has half the decay rate of the one before."""
    head_dim: int | None = None
    """Query and key size per head, K, even; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is 2 dim / num_heads."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies: the longest wavelength over 2 pi."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        k, v = checks.head_sizes(self, keys=dim, values=2 * dim)
        if k % 2:
            raise ValueError(f"rotary positions turn pairs of channels: head_dim must be even, got {k}")
        return k, v

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return RetNetLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {"s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32)}

    @property
    def log_decay(self) -> list[float]:
        """Logarithms of gamma, one per head."""
        return [math.log1p(-(2.0 ** (-5 - h))) for h in range(self.num_heads)]


def retnet(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: RetNet, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply retention; the state is {"s": (B, H, K, V) float32}, its keys rotated relative to the next token."""
    q, k, v = (parts.heads(linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    frequency = rotary.frequencies(k.shape[-1] // 2, config.rotary_base)
    q, k, v = rotary.turn(q, frequency), rotary.turn(k, frequency), mark("values", v)
    log_decay = mark("log_decay", jnp.broadcast_to(jnp.array(config.log_decay, jnp.float32), k.shape[:3]))
    o, s = linear_attention(q, k, v, log_decay, None if state is None else state["s"], reset=reset)
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    y = linear(mark("mixed", o * jax.nn.silu(linear(x, params["in_gate"]))), params["out_kernel"])
    return y, {"s": mark("matrix_state", rotary.turn_state(s, frequency, -x.shape[1]))}


class RetNetLayer(Mixer):
    """Parameters of `retnet`: D H (2 K + 3 V) + V of them."""

    function = staticmethod(retnet)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * v),
            "norm_scale": vector(ones, v),
            "in_gate": reads(fan_in, d, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
