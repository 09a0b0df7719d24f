"""GLA, gated linear attention (Yang et al., 2023, arXiv 2312.06635).

    S_t = diag(a_t) S_{t-1} + k_t v_t^T             a_t = sigmoid(W_2 W_1 x_t + b)^(1/16), one per key channel
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_out ( RMSNorm(o_t) * silu(W_g x_t) )    the norm over each head

Keys are half as wide as values; the gate's matrix has rank 16.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, small, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention
from recurrax.ops.dtypes import upcast
from recurrax.parameters import expands, rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class GLA(MixerConfig):
    """A gated linear attention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    num_kv_heads: int | None = None
    """Number of key, value and decay heads, each shared by num_heads / num_kv_heads adjacent query heads; None is
    num_heads."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / 2 / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    gate_rank: int = 16
    """Rank of the decay gate's matrix."""
    gate_normalizer: float = 16.0
    """Degree of the root taken of the gate's sigmoid; a higher degree forgets more slowly."""
    conv_width: int | None = None
    """Number of taps of short convolutions on q, k and v, followed by silu; None disables them, as in the paper."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads: num_kv_heads, or num_heads if it is None."""
        return self.num_kv_heads or self.num_heads

    def widths(self, dim: int) -> dict[str, int]:
        """Return the widths of queries, keys and values, over all heads."""
        k, v = self.sizes(dim)
        return {"q": self.num_heads * k, "k": self.kv_heads * k, "v": self.kv_heads * v}

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim // 2, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return GLALayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        state = {"s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32)}
        if self.conv_width:
            state["conv"] = parts.short_convolution_state(batch_size, self.conv_width, **self.widths(dim))
        return state


def gla(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: GLA, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply gated linear attention; the state is {"s": (B, H, K, V) float32}, and "conv" if there are convolutions."""
    state, after = state or {"s": None, "conv": None}, {}
    qkv = {name: linear(x, params[f"in_{name}"]) for name in "qkv"}
    qkv["v"] = mark("values", qkv["v"])
    if config.conv_width:
        qkv, after["conv"] = parts.short_convolutions(params, qkv, state["conv"], reset=reset)
    gate = upcast(linear(linear(x, params["in_decay"]), params["decay_kernel"]))
    log_decay = jax.nn.log_sigmoid(gate + upcast(params["decay_bias"])[None, None]) / config.gate_normalizer
    q = parts.heads(qkv["q"], config.num_heads)
    k, v, log_decay = (parts.heads(array, config.kv_heads) for array in (qkv["k"], qkv["v"], log_decay))
    if config.kv_heads < config.num_heads:
        share = config.num_heads // config.kv_heads
        k, v, log_decay = (jnp.repeat(array, share, axis=2) for array in (k, v, log_decay))
    o, after["s"] = linear_attention(q, k, v, mark("log_decay", log_decay), state["s"], reset=reset)
    after["s"] = mark("matrix_state", after["s"])
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    return linear(mark("mixed", o * jax.nn.silu(linear(x, params["in_gate"]))), params["out_kernel"]), after


class GLALayer(Mixer):
    """Parameters of `gla`: D (HK + H'K + 2 HV + H'V + R) + H'K (R + 1) + V of them, H' key/value heads.

    Convolutions add W (HK + H'K + H'V).
    """

    function = staticmethod(gla)

    def parameters(self, depth):
        d, h, r, w = self.dim, self.config.num_heads, self.config.gate_rank, self.config.conv_width
        widths, (_, v) = self.config.widths(d), self.config.sizes(d)
        convolutions = {f"conv_{name}": parts.taps(w, e) for name, e in widths.items()} if w else {}
        return {
            **{f"in_{name}": reads(small, d, e) for name, e in widths.items()},
            **convolutions,
            "in_decay": reads(fan_in, d, r),
            "decay_kernel": expands(fan_in, r, widths["k"]),
            "decay_bias": rate(zeros, widths["k"]),
            "norm_scale": vector(ones, v),
            "in_gate": reads(fan_in, d, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
