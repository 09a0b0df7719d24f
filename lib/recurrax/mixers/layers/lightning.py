"""MiniMax-01's lightning attention (MiniMax, 2025, arXiv 2501.08313; Qin et al., 2024, arXiv 2401.04658).

    q, k, v = silu(W x)
    S_t = e^{-s_h} S_{t-1} + k_t v_t^T          s_h = 2^(-8 h / H) (1 - l / L), for head h = 1 .. H of layer l of L
    o_t = S_t^T q_t
    y_t = W_out ( RMSNorm(o_t) * sigmoid(W_g x_t) )         the norm over all heads

The decays are constants, and lower layers decay faster: `recurrax.mixers.slopes` has this formula and those of
published checkpoints.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT, Depth
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, small
from recurrax.mixers.marks import mark
from recurrax.mixers.slopes import FORMULAS, slopes
from recurrax.ops import linear, linear_attention
from recurrax.parameters import reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class Lightning(MixerConfig):
    """A lightning attention layer of MiniMax-01."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Size of each head, K = V; None is dim / num_heads."""
    slopes: str = "paper"
    """Formula of the decays: "paper", or "minimax" or "transnormer", those of the published checkpoints."""
    norm_eps: float = 1e-6
    """Epsilon added to the mean square of the output in the norm."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "norm_eps")
        checks.choice("slopes", self.slopes, FORMULAS)

    def size(self, dim: int) -> int:
        """Return the head size, K = V."""
        return self.head_dim or checks.per_head("head_dim", dim, self.num_heads)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.size(dim)
        return LightningLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        k = self.size(dim)
        return {"s": jnp.zeros((batch_size, self.num_heads, k, k), jnp.float32)}


def lightning(
    params: Params,
    x: Float[Array, "B T D"],
    state: State | None,
    config: Lightning,
    *,
    reset: Reset | None = None,
    depth: Depth = Depth(),  # noqa: B008
) -> tuple[Float[Array, "B T D"], State]:
    """Apply linear attention with fixed decays; the state is {"s": (B, H, K, K) float32}."""
    s = None if state is None else state["s"]
    q, k, v = (linear(x, params[f"in_{name}"]) for name in "qkv")
    q, k, v = (parts.heads(jax.nn.silu(array), config.num_heads) for array in (q, k, mark("values", v)))
    log_decay = mark("log_decay", jnp.broadcast_to(-slopes(config.num_heads, depth, config.slopes), k.shape[:3]))
    o, s = linear_attention(q, k, v, log_decay, s, scale=1.0, reset=reset)
    o = parts.rms_norm(parts.merge(o), params["norm_scale"], config.norm_eps)
    o = mark("mixed", o * mark("output_gate", jax.nn.sigmoid(linear(x, params["in_gate"]))))
    return linear(o, params["out_kernel"]), {"s": mark("matrix_state", s)}


class LightningLayer(Mixer):
    """Parameters of `lightning`: 5 D HK + HK of them."""

    function = staticmethod(lightning)

    def run(self, params, x, state, *, reset, depth, shared):
        del shared
        return self.function(params, x, state, self.config, reset=reset, depth=depth)

    def parameters(self, depth):
        d, h, k = self.dim, self.config.num_heads, self.config.size(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * k),
            "norm_scale": vector(ones, h * k),
            "in_gate": reads(fan_in, d, h * k),
            "out_kernel": writes(after_norm, h * k, d),
        }
