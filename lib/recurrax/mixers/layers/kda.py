"""KDA, Kimi Delta Attention (Kimi Linear; Kimi Team, 2025, arXiv 2510.26692).

    q_t, k_t, v_t = silu(conv(W x))_t                       q and k then normalised to length 1
    b_t = sigmoid(W_b x_t)                                  one per head
    log a_t = -exp(A_log) softplus(W_2 W_1 x_t + dt_bias)   one per key channel, A_log one per head
    S_t = diag(a_t) S_{t-1} + b_t k_t (v_t - (diag(a_t) S_{t-1})^T k_t)^T
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_out ( RMSNorm(o_t) * sigmoid(W_4 W_3 x_t) )     the norm over each head

Gated DeltaNet with one decay rate per key channel.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, zeros
from recurrax.mixers.layers.deltanet import activated, projections, step_size
from recurrax.mixers.marks import mark
from recurrax.ops import delta_rule, linear, shift
from recurrax.ops.dtypes import upcast
from recurrax.parameters import expands, rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class KDA(MixerConfig):
    """A Kimi Delta Attention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    gate_rank: int | None = None
    """Rank of the matrices of the decay and the output gate; None is V."""
    full_rank_gate: bool = False
    """Whether the output gate has a full matrix instead of a low-rank one."""
    gate_bias: bool = False
    """Whether the output gate has a bias."""
    lower_bound: float | None = None
    """Lower bound of log a_t = lower_bound sigmoid(exp(A_log) (W_2 W_1 x_t + dt_bias)), negative; None is the form
    without a bound, -exp(A_log) softplus(W_2 W_1 x_t + dt_bias)."""
    negative_eigenvalues: bool = False
    """Whether b_t is 2 sigmoid(.): the transition's eigenvalue along a key is then in (-1, 1) instead of (0, 1)."""
    conv_width: int | None = 4
    """Number of taps of the short convolutions on q, k and v; None disables them."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "value_head_dim", "gate_rank", "conv_width", "norm_eps")
        if self.lower_bound is not None and not self.lower_bound < 0:
            raise ValueError(f"lower_bound is the smallest log-decay and must be negative, got {self.lower_bound}")

    def sizes(self, dim: int) -> tuple[int, int, int]:
        """Return K, V and the rank of the gates."""
        k, v = checks.head_sizes(self, keys=dim, values=dim)
        return k, v, self.gate_rank or v

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return KDALayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        h, (k, v, _) = self.num_heads, self.sizes(dim)
        state = {"s": jnp.zeros((batch_size, h, k, v), jnp.float32)}
        if self.conv_width:
            state["conv"] = parts.short_convolution_state(batch_size, self.conv_width, q=h * k, k=h * k, v=h * v)
        return state


def kda(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: KDA, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply Kimi Delta Attention; the state is {"s": (B, H, K, V) float32}, and "conv" if there are convolutions."""
    state = state or {"s": None, "conv": None}
    (q, k, v), after = activated(params, x, state, config.conv_width, reset=reset)
    logits = linear(linear(x, params["in_decay"]), params["decay_kernel"])
    q, k, v, logits = (parts.heads(array, config.num_heads) for array in (q, k, v, logits))
    beta = step_size(linear(x, params["in_beta"]), config.negative_eigenvalues)
    a_log, dt_bias = params["a_log"][:, None], params["dt_bias"].reshape(config.num_heads, -1)
    if config.lower_bound is None:
        log_decay = gates.log_decay(logits, a_log, dt_bias)
    else:
        logits = upcast(logits) + upcast(dt_bias)[None, None]
        log_decay = config.lower_bound * jax.nn.sigmoid(jnp.exp(upcast(a_log))[None, None] * logits)
    q, k, log_decay = parts.unit_norm(q), mark("keys", parts.unit_norm(k)), mark("log_decay", log_decay)
    o, after["s"] = delta_rule(q, k, v, beta, log_decay, state["s"], reset=reset)
    after["s"] = mark("matrix_state", after["s"])
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    gate = linear(x, params["in_gate"])
    if not config.full_rank_gate:
        gate = linear(gate, params["gate_kernel"])
    if config.gate_bias:
        gate = shift(gate, params["gate_bias"])
    return linear(mark("mixed", o * mark("output_gate", jax.nn.sigmoid(gate))), params["out_kernel"]), after


class KDALayer(Mixer):
    """Parameters of `kda`: D (2 HK + 2 HV + H + 2 R) + R (HK + HV) + W (2 HK + HV) + HK + H + V of them.

    A full-rank gate has D HV instead of D R + R HV; a gate bias adds HV.
    """

    function = staticmethod(kda)

    def parameters(self, depth):
        config, d, h, (k, v, r) = self.config, self.dim, self.config.num_heads, self.config.sizes(self.dim)
        if config.full_rank_gate:
            gate = {"in_gate": reads(fan_in, d, h * v)}
        else:
            gate = {"in_gate": reads(fan_in, d, r), "gate_kernel": expands(fan_in, r, h * v)}
        if config.gate_bias:
            gate["gate_bias"] = vector(zeros, h * v)
        # exp(A_log) is the decay rate, or the slope of the sigmoid in the bounded form.
        a_log = zeros if config.lower_bound is not None else functools.partial(gates.log_uniform_a, low=1.0, high=16.0)
        return {
            **projections(d, config.conv_width, {"q": h * k, "k": h * k, "v": h * v}),
            "in_beta": reads(fan_in, d, h),
            "in_decay": reads(fan_in, d, r),
            "decay_kernel": expands(fan_in, r, h * k),
            "a_log": rate(a_log, h),
            "dt_bias": rate(gates.inverse_softplus_dt, h * k),
            "norm_scale": vector(ones, v),
            **gate,
            "out_kernel": writes(after_norm, h * v, d),
        }
