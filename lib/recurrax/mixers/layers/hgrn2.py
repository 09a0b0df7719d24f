"""HGRN2 (Qin et al., 2024, arXiv 2404.07904).

    S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T       f_t = b + (1 - b) sigmoid(W_f x_t), one per key channel
    o_t = S_t^T q_t / sqrt(K)                       q = silu(W_q x)
    y_t = W_out RMSNorm(o_t)                        the norm over all heads

The key is 1 - f_t, the complement of the forget gate. b is learned and rises with depth: upper layers have longer
memory.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, ones, small
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class HGRN2(MixerConfig):
    """An HGRN2 layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Key size per head, K, the expansion of each value; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    norm_eps: float = 1e-5
    """Epsilon added to the mean square of the output in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return HGRN2Layer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {"s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32)}


def hgrn2(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: HGRN2, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply the gated linear recurrence with expanded state; the state is {"s": (B, H, K, V) float32}."""
    log_f, released = gates.bounded_forget(linear(x, params["in_forget"]), params["lower_bound"])
    q, k, v, log_f = (
        parts.heads(array, config.num_heads)
        for array in (
            jax.nn.silu(linear(x, params["in_q"])),
            released.astype(x.dtype),
            mark("values", linear(x, params["in_v"])),
            mark("log_decay", log_f),
        )
    )
    o, s = linear_attention(q, k, v, log_f, None if state is None else state["s"], reset=reset)
    o = parts.rms_norm(parts.merge(o), params["norm_scale"], config.norm_eps)
    return linear(mark("mixed", o), params["out_kernel"]), {"s": mark("matrix_state", s)}


class HGRN2Layer(Mixer):
    """Parameters of `hgrn2`: D H (2 K + 2 V) + HK + HV of them."""

    function = staticmethod(hgrn2)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_forget": reads(small, d, h * k),
            "in_v": reads(small, d, h * v),
            "lower_bound": rate(functools.partial(gates.rising_bound, depth=depth.fraction), h * k),
            "norm_scale": vector(ones, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
