"""TransNormer's NormAttention (Qin et al., 2022, arXiv 2210.10340).

    S_t = S_{t-1} + phi(k_t) v_t^T        phi(x) = elu(x) + 1
    y_t = W_out RMSNorm(S_t^T phi(q_t))   the norm over all heads

Linear attention whose divisor is replaced by a norm: the divisor's gradient is unbounded, the norm's is not. In the
paper, the lower layers use attention within blocks of tokens instead: `Attention(window=...)` in the pattern.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, ones, small
from recurrax.mixers.layers.linear_attention import FEATURE_MAPS
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention
from recurrax.parameters import reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class TransNormer(MixerConfig):
    """A NormAttention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    feature_map: str = "elu"
    """Feature map phi: "elu" (elu + 1), "relu", "silu" or "identity"."""
    norm_eps: float = 1e-5
    """Epsilon added to the mean square of the output in the norm."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "value_head_dim", "norm_eps")
        checks.choice("feature_map", self.feature_map, FEATURE_MAPS)

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return TransNormerLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {"s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32)}


def transnormer(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: TransNormer, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply normalised linear attention; the state is {"s": (B, H, K, V) float32}."""
    q, k, v = (parts.heads(linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    q, k = (FEATURE_MAPS[config.feature_map](array) for array in (q, k))
    v = mark("values", v)
    o, s = linear_attention(q, k, v, None, None if state is None else state["s"], scale=1.0, reset=reset)
    o = parts.rms_norm(parts.merge(o), params["norm_scale"], config.norm_eps)
    return linear(mark("mixed", o), params["out_kernel"]), {"s": mark("matrix_state", s)}


class TransNormerLayer(Mixer):
    """Parameters of `transnormer`: D H (2 K + 2 V) + HV of them."""

    function = staticmethod(transnormer)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * v),
            "norm_scale": vector(ones, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
