"""Linear attention (Katharopoulos et al., 2020, arXiv 2006.16236).

    S_t = S_{t-1} + phi(k_t) v_t^T        z_t = z_{t-1} + phi(k_t)        phi(x) = elu(x) + 1
    o_t = S_t^T phi(q_t) / (z_t . phi(q_t) + eps)
    y_t = W_out o_t

Softmax attention with the kernel phi(q) . phi(k) for exp(q . k): the sums over the past become a state. z is stored as
an additional column of S, for a value that is always 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks, ops
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, fan_in
from recurrax.mixers.marks import mark
from recurrax.ops.dtypes import upcast
from recurrax.parameters import reads, writes
from recurrax.types import Params, Reset, State

FEATURE_MAPS = {
    "elu": lambda x: jax.nn.elu(x) + 1,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "identity": lambda x: x,
}
NEVER_NEGATIVE = ("elu", "relu")


@dataclasses.dataclass(frozen=True)
class LinearAttention(MixerConfig):
    """A linear attention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    feature_map: str = "elu"
    """Feature map phi: "elu" (elu + 1), "relu", "silu" or "identity"."""
    normalize: bool = True
    """Whether to divide by z . phi(q); if not, o_t is S_t^T phi(q_t) / sqrt(K)."""
    eps: float = 1e-6
    """Epsilon added to the divisor."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "value_head_dim", "eps")
        checks.choice("feature_map", self.feature_map, FEATURE_MAPS)
        if self.normalize and self.feature_map not in NEVER_NEGATIVE:
            raise ValueError(
                f"with feature_map {self.feature_map!r} the divisor may pass through 0; "
                f"take one of {', '.join(NEVER_NEGATIVE)}, or normalize=False"
            )

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return LinearAttentionLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        k, v = self.sizes(dim)
        return {"s": jnp.zeros((batch_size, self.num_heads, k, v + self.normalize), jnp.float32)}


def linear_attention(
    params: Params,
    x: Float[Array, "B T D"],
    state: State | None,
    config: LinearAttention,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], State]:
    """Apply linear attention; the state is {"s": (B, H, K, V [+ 1 for z]) float32}."""
    s = None if state is None else state["s"]
    q, k, v = (parts.heads(ops.linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    q, k = (FEATURE_MAPS[config.feature_map](array) for array in (q, k))
    v = mark("values", v)
    if config.normalize:
        # In float32: the divisor grows with t, and its sum must not round small terms away.
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        q, k, v = (upcast(array) for array in (q, k, v))
        o, s = ops.linear_attention(q, k, v, None, s, scale=1.0, reset=reset)
        o = (o[..., :-1] / mark("coefficients", o[..., -1:] + config.eps)).astype(x.dtype)
    else:
        o, s = ops.linear_attention(q, k, v, None, s, reset=reset)
    return ops.linear(mark("mixed", parts.merge(o)), params["out_kernel"]), {"s": mark("matrix_state", s)}


class LinearAttentionLayer(Mixer):
    """Parameters of `linear_attention`: 2 D H (K + V) of them."""

    function = staticmethod(linear_attention)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(fan_in, d, h * k),
            "in_k": reads(fan_in, d, h * k),
            "in_v": reads(fan_in, d, h * v),
            "out_kernel": writes(fan_in, h * v, d),
        }
