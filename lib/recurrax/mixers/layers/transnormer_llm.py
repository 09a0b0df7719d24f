"""TransNormerLLM's gated linear attention (Qin et al., 2023, arXiv 2307.14995), computed like Lightning attention.

    S_t = e^{-s_h} S_{t-1} + k_t v_t^T              s_h = 2^(-8 h / H) (1 - l / L), for head h = 1 .. H of layer l of L
    o_t = S_t^T q_t                                 q = silu(W_q x), k = silu(W_k x)
    y_t = W_out ( SimpleRMSNorm(o_t) * W_u x_t )    the norm over all heads, without a scale

LRPE-d: each channel of q and k becomes a pair (c, 0), rotated by its position times a learned theta, so that q_t . k_s
is sum_i q_i k_i cos(theta_i (t - s)). The decays are constants, and lower layers decay faster: `recurrax.mixers.slopes`
has this formula and those of published checkpoints.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT, Depth
from recurrax.mixers import parts, rotary
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, small
from recurrax.mixers.marks import mark
from recurrax.mixers.slopes import FORMULAS, slopes
from recurrax.ops import linear, linear_attention
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import Pointwise
from recurrax.parameters import Parameter, reads, writes
from recurrax.types import Dtype, Params, Reset, State


@dataclasses.dataclass(frozen=True)
class TransNormerLLM(MixerConfig):
    """A gated linear attention layer of TransNormerLLM."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Size of each head, V and, before LRPE doubles it, K; None is dim / num_heads."""
    lrpe: bool = True
    """Whether queries and keys have relative positions. The paper has them in the first layer only."""
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
        return TransNormerLLMLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        k = self.size(dim)
        return {"s": jnp.zeros((batch_size, self.num_heads, k * (1 + self.lrpe), k), jnp.float32)}


def transnormer_llm(
    params: Params,
    x: Float[Array, "B T D"],
    state: State | None,
    config: TransNormerLLM,
    *,
    reset: Reset | None = None,
    depth: Depth = Depth(),  # noqa: B008
) -> tuple[Float[Array, "B T D"], State]:
    """Apply gated linear attention with fixed decays; the state is {"s": (B, H, K or 2 K, V) float32}."""
    s = None if state is None else state["s"]
    q, k, v = (parts.heads(linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    q, k, v = jax.nn.silu(q), jax.nn.silu(k), mark("values", v)
    if config.lrpe:
        place = jnp.arange(x.shape[1], dtype=jnp.float32)
        q, k = (_turned(c, place, params["theta"]) for c in (q, k))
    log_decay = mark("log_decay", jnp.broadcast_to(-slopes(config.num_heads, depth, config.slopes), k.shape[:3]))
    o, s = linear_attention(q, k, v, log_decay, s, scale=1.0, reset=reset)
    if config.lrpe:
        s = rotary.turn_state(s, params["theta"], -x.shape[1])
    o = parts.rms_norm(parts.merge(o), None, config.norm_eps)
    return linear(mark("mixed", o * linear(x, params["in_gate"])), params["out_kernel"]), {"s": mark("matrix_state", s)}


# Run per shard, so that devices sum the gradients of theta; XLA alone would sum those of every token's angles.
@sharded({"x": "B T H", "place": "T", "theta": "H"}, results="B T H", summary=Pointwise())
def _turned(x, place, theta):
    """Return (x, 0) rotated by place * theta: (B, T, H, 2 K)."""
    return rotary.turn_to(jnp.concatenate([x, jnp.zeros_like(x)], axis=-1), place, theta)


class TransNormerLLMLayer(Mixer):
    """Parameters of `transnormer_llm`: 5 D HK of them, and HK for LRPE."""

    function = staticmethod(transnormer_llm)

    def run(self, params, x, state, *, reset, depth, shared):
        del shared
        return self.function(params, x, state, self.config, reset=reset, depth=depth)

    def parameters(self, depth):
        d, h, k = self.dim, self.config.num_heads, self.config.size(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * k),
            **({"theta": Parameter(_angles, (h, k), ("channels", None), "recurrence")} if self.config.lrpe else {}),
            "in_gate": reads(fan_in, d, h * k),
            "out_kernel": writes(after_norm, h * k, d),
        }


def _angles(key: jax.Array, shape: tuple[int, int], dtype: Dtype = jnp.float32) -> Float[Array, "H K"]:
    """Initialise theta_j = 10000^(-2 j / HK) over the channels j of all heads."""
    del key
    size = shape[0] * shape[1]
    return (10_000.0 ** (-2 * jnp.arange(size, dtype=dtype) / size)).reshape(shape)
