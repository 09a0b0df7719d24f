"""LightNet's additive recurrence (Qin et al., 2024, arXiv 2405.21022).

    S_t = diag(e^{z_{t-1} - z_t}) S_{t-1} + e^{c_t - z_t} v_t^T     c = W_k x,  z_t = log sum_{s <= t} e^{c_s}
    o_t = S_t^T q_t / sqrt(K)                                       q = silu(W_q x)
    y_t = W_out ( RMSNorm(o_t) * silu(W_2 W_1 x_t) )                the norm over all heads

Each key channel holds a running average of values with weights e^c: the weights of decay and input add up to 1. With
u_t = c_t - z_{t-1} they are sigmoid(-u_t) and sigmoid(u_t), whose sum is 1 to rounding.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, small
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention
from recurrax.ops.dtypes import upcast
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import Fold
from recurrax.parameters import expands, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class LightNet(MixerConfig):
    """A LightNet layer for sequences."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    gate_rank: int | None = None
    """Rank of the output gate's matrix; None is V."""
    norm_eps: float = 1e-5
    """Epsilon added to the mean square of the output in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return LightNetLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        h, (k, v) = self.num_heads, self.sizes(dim)
        # -inf is the logarithm of an empty sum.
        z = jnp.full((batch_size, h, k), -jnp.inf, jnp.float32)
        return {"s": jnp.zeros((batch_size, h, k, v), jnp.float32), "z": z}


def lightnet(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: LightNet, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Compute running averages of values; the state is {"s": (B, H, K, V), "z": (B, H, K)}, float32."""
    q, c, v = (parts.heads(linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    c, v = upcast(c), mark("values", v)
    z = jnp.full_like(c[:, 0], -jnp.inf) if state is None else state["z"]
    before, z = _log_sums(c, z, reset)
    share = c - before
    log_decay = mark("log_decay", -jax.nn.softplus(share))
    q, k = jax.nn.silu(q), mark("input_gate", jax.nn.sigmoid(share)).astype(x.dtype)
    o, s = linear_attention(q, k, v, log_decay, state and state["s"], reset=reset)
    gate = linear(linear(x, params["in_gate"]), params["gate_kernel"])
    o = parts.rms_norm(parts.merge(o), params["norm_scale"], config.norm_eps)
    return linear(mark("mixed", o * jax.nn.silu(gate)), params["out_kernel"]), {"s": mark("matrix_state", s), "z": z}


def _summarise(run, given, state):
    """Return the sum of this shard alone, which is added to z."""
    own = run({**given, state: jnp.full_like(given[state], -jnp.inf)})[1]
    return own, lambda own, z: jnp.logaddexp(z, own)


@sharded(
    {"c": "B T H", "z": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    state="z",
    summary=Fold(_summarise, empty=-jnp.inf),
)
def _log_sums(c, z, reset):
    """Return log(e^z + sum_{s < t} e^{c_s}) within the document, before each step and after the last."""
    starts = jnp.zeros(c.shape[:2], bool) if reset is None else reset
    starts = jnp.pad(starts, ((0, 0), (1, 0)))[..., None, None]
    terms = jnp.concatenate([z[:, None].astype(c.dtype), c], axis=1)

    def add(left, right):
        # Mask before the sum: if left is NaN, the gradient of a branch that is not selected would be NaN too.
        return left[0] | right[0], jnp.logaddexp(jnp.where(right[0], -jnp.inf, left[1]), right[1])

    _, sums = jax.lax.associative_scan(add, (jnp.broadcast_to(starts, terms.shape), terms), axis=1)
    # Before a document's first token the sum is empty.
    return jnp.where(starts[:, 1:], -jnp.inf, sums[:, :-1]), sums[:, -1]


class LightNetLayer(Mixer):
    """Parameters of `lightnet`: D H (2 K + 2 V) + R (D + HV) + HV of them, R the gate's rank."""

    function = staticmethod(lightnet)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        r = self.config.gate_rank or v
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * v),
            "norm_scale": vector(ones, h * v),
            "in_gate": reads(fan_in, d, r),
            "gate_kernel": expands(fan_in, r, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
