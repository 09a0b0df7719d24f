"""mLSTM, the matrix memory of xLSTM (Beck et al., 2024, arXiv 2405.04517).

    C_t = f_t C_{t-1} + i_t k_t v_t^T               f_t = sigmoid(W_f x_t + b_f),  i_t = exp(W_i x_t + b_i)
    n_t = f_t n_{t-1} + i_t k_t
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)           q scaled by 1 / sqrt(K)
    y_t = W_out ( sigmoid(W_o x_t) * LayerNorm(h_t) )       the norm over each head

i_t is unbounded, so C and n are stored in units of e^{m_t}, m_t = max(log f_t + m_{t-1}, log i_t), m_0 = 0. The result
does not depend on the units: no gradient passes through m. n is an additional column of C. Gates, norm and the soft
cap c tanh(. / c) of the gates are those of xLSTM 7B (arXiv 2503.13427). With a sigmoid input gate there is no n and no
m (arXiv 2503.14376): h_t = C_t^T q_t.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, small
from recurrax.mixers.marks import mark
from recurrax.ops import linear, linear_attention, scale
from recurrax.ops.dtypes import upcast
from recurrax.ops.sharding import sharded
from recurrax.ops.summaries import Fold
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Dtype, Params, Reset, State

INPUT_GATES = ("exponential", "sigmoid")


@dataclasses.dataclass(frozen=True)
class MLSTM(MixerConfig):
    """An mLSTM layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / 2 / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    input_gate: str = "exponential"
    """Input gate: "exponential", with normalizer n and stabilizer m, or "sigmoid", with neither."""
    gate_soft_cap: float | None = 15.0
    """Soft cap c of the gates; None disables it, as in the first paper."""
    input_gate_bias: float = 0.0
    """Initial b_i; xLSTM 7B uses -10, which almost closes the gates."""
    eps: float = 1e-6
    """Epsilon added to the divisor, in units of e^m."""
    norm_eps: float = 1e-6
    """Epsilon added to each head's variance in the norm."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "value_head_dim", "gate_soft_cap", "eps", "norm_eps")
        checks.choice("input_gate", self.input_gate, INPUT_GATES)

    @property
    def exponential(self) -> bool:
        return self.input_gate == "exponential"

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim // 2, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return MLSTMLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        h, (k, v) = self.num_heads, self.sizes(dim)
        if not self.exponential:
            return {"c": jnp.zeros((batch_size, h, k, v), jnp.float32)}
        c = jnp.zeros((batch_size, h, k, v + 1), jnp.float32)
        return {"c": c, "m": jnp.zeros((batch_size, h), jnp.float32)}


def mlstm(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: MLSTM, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply the matrix memory; the state is {"c": (B, H, K, V [+ 1 for n]), "m": (B, H) if exponential}, float32."""
    q, k, v = (parts.heads(linear(x, params[f"in_{name}"]), config.num_heads) for name in "qkv")
    v, log_f = mark("values", v), mark("log_decay", jax.nn.log_sigmoid(_gate(params, x, "forget", config)))
    log_i = _gate(params, x, "input", config)
    if config.exponential:
        h, state = _stabilized(q, k, v, log_f, log_i, state, config.eps, reset)
    else:
        k = (upcast(k) * mark("input_gate", jax.nn.sigmoid(log_i))[..., None]).astype(k.dtype)
        h, c = linear_attention(q, k, v, log_f, None if state is None else state["c"], reset=reset)
        state = {"c": mark("matrix_state", c)}
    h = scale(parts.merge(parts.layer_norm(h, eps=config.norm_eps)), params["norm_scale"])
    gate = mark("output_gate", jax.nn.sigmoid(linear(x, params["in_gate"])))
    return linear(mark("mixed", gate * h), params["out_kernel"]), state


def _gate(params, x, name, config):
    """Return the logits of a gate (B, T, H) in float32, soft-capped."""
    logits = upcast(linear(x, params[f"in_{name}_gate"])) + upcast(params[f"{name}_gate_bias"])[None, None]
    cap = config.gate_soft_cap
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def _stabilized(q, k, v, log_f, log_i, state, eps, reset):
    """Return h and the state, with all sums in units of e^m."""
    before = jnp.zeros_like(log_f[:, 0]) if state is None else state["m"]
    (before, m), last = _stabilizer(*jax.lax.stop_gradient((log_f, log_i, before)), reset)
    # log f + m_{t-1} - m_t, which rounding must not bring above 0; its derivative in log f is 1, also where it is 0.
    log_decay = log_f + jax.lax.stop_gradient(jnp.minimum(before - m, -log_f))
    k = upcast(k) * jnp.exp(log_i - m)[..., None]
    v = upcast(jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1))
    h, c = linear_attention(upcast(q), k, v, log_decay, None if state is None else state["c"], reset=reset)
    floor = jnp.exp(-m)[..., None]
    h = h[..., :-1] / mark("coefficients", jnp.maximum(jnp.abs(h[..., -1:]), floor) + eps)
    return h.astype(q.dtype), {"c": mark("matrix_state", c), "m": last}


def _summarise(run, given, state):
    """Return (F, U): a shard maps m to max(F + m, U), or to U if a document starts in it. F is the sum of log f."""
    log_f, reset = given["log_f"], given["reset"]
    final = run({**given, state: jnp.full_like(given[state], -jnp.inf)})[1]
    total = log_f.sum(1)
    if reset is not None:  # selected: log f before the start may be NaN
        total = jnp.where(reset.any(1)[:, None], 0, total)
    return (total, final), lambda summary, m: jnp.maximum(summary[0] + m, summary[1])


@sharded(
    {"log_f": "B T H", "log_i": "B T H", "before": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    state="before",
    summary=Fold(_summarise, empty=-jnp.inf),
)
def _stabilizer(log_f, log_i, before, reset):
    """Return m_{t-1} and m_t = max(log f_t + m_{t-1}, log i_t), a max-plus product, both (B, T, H), and the last m."""
    first = log_f[:, 0] + before
    starts = jnp.zeros(log_f.shape[:2], bool) if reset is None else reset
    starts = starts[..., None]
    # Each document starts from m = 0.
    log_i = jnp.where(starts, jnp.maximum(log_f, log_i), log_i)
    log_i = log_i.at[:, 0].max(jnp.where(starts[:, 0], -jnp.inf, first))

    def compose(left, right):
        # Selected, not added to -inf: values before the document may be NaN.
        m = jnp.where(right[0], right[2], jnp.maximum(left[2] + right[1], right[2]))
        return left[0] | right[0], left[1] + right[1], m

    m = jax.lax.associative_scan(compose, (jnp.broadcast_to(starts, log_f.shape), log_f, log_i), axis=1)[2]
    previous = jnp.concatenate([before[:, None], m[:, :-1]], axis=1)
    if reset is not None:
        previous = jnp.where(reset[..., None], 0, previous)
    return (previous, m), m[:, -1]


class MLSTMLayer(Mixer):
    """Parameters of `mlstm`: D H (2 K + 3 V + 2) + 2 H + HV of them."""

    function = staticmethod(mlstm)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(small, d, h * k),
            "in_k": reads(small, d, h * k),
            "in_v": reads(small, d, h * v),
            "in_input_gate": reads(small, d, h),
            "input_gate_bias": vector(nn.initializers.constant(self.config.input_gate_bias), h),
            "in_forget_gate": reads(small, d, h),
            "forget_gate_bias": rate(_forget_bias, h),
            "norm_scale": vector(ones, h * v),
            "in_gate": reads(fan_in, d, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }


def _forget_bias(key: jax.Array, shape: tuple[int], dtype: Dtype = jnp.float32) -> Float[Array, " H"]:
    """Initialise the biases from 3 for the first head to 6 for the last: half-lives of 14 to 280 tokens."""
    del key
    return jnp.linspace(3.0, 6.0, shape[0], dtype=dtype)
