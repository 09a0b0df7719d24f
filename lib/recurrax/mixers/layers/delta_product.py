"""DeltaProduct (Siems et al., 2025, arXiv 2502.10297).

    q_t = silu(conv(W_q x))_t                               q and all k then normalised to length 1
    k_tj, v_tj = silu(conv(W_j x))_t                        j = 1 .. R
    b_tj = 2 sigmoid(W_bj x_t)                              one per head and j
    S <- S + b_tj k_tj (v_tj - S^T k_tj)^T                  from S = S_{t-1} for j = 1 .. R, to S_t
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_out ( RMSNorm(o_t) * silu(W_g x_t) )            the norm over each head

R steps of the delta rule per token: the transition is a product of R Householder matrices, which can be a rotation.
Gated DeltaProduct first multiplies S_{t-1} by a_t, log a_t = -exp(A_log) softplus(W_a x_t + dt_bias), one per head.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones
from recurrax.mixers.layers.deltanet import activated, projections, step_size
from recurrax.mixers.marks import mark
from recurrax.ops import delta_product as delta_product_op
from recurrax.ops import linear
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class DeltaProduct(MixerConfig):
    """A DeltaProduct layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is 3/4 dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is 3/2 dim / num_heads."""
    num_householder: int = 2
    """Number of delta-rule steps per token, R."""
    negative_eigenvalues: bool = True
    """Whether b is 2 sigmoid(.), without which no transition reflects or rotates."""
    forget_gate: bool = False
    """Whether the state decays before the steps, as in Gated DeltaProduct."""
    output_gate: bool = True
    """Whether the normalised output is multiplied by silu(W_g x)."""
    conv_width: int | None = 4
    """Number of taps of the short convolutions on q and every k and v; None disables them."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        names = ("num_heads", "head_dim", "value_head_dim", "num_householder", "conv_width", "norm_eps")
        checks.positive(self, *names)

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=3 * dim // 4, values=3 * dim // 2)

    def widths(self, dim: int) -> dict[str, int]:
        """Return the widths of queries, keys and values, over all heads and steps."""
        h, r, (k, v) = self.num_heads, self.num_householder, self.sizes(dim)
        return {"q": h * k, "k": r * h * k, "v": r * h * v}

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return DeltaProductLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        state = {"s": jnp.zeros((batch_size, self.num_heads, *self.sizes(dim)), jnp.float32)}
        if self.conv_width:
            state["conv"] = parts.short_convolution_state(batch_size, self.conv_width, **self.widths(dim))
        return state


def delta_product(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: DeltaProduct, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply DeltaProduct; the state is {"s": (B, H, K, V) float32}, and "conv" if there are convolutions."""
    state, steps = state or {"s": None, "conv": None}, (config.num_householder, config.num_heads)
    (q, k, v), after = activated(params, x, state, config.conv_width, reset=reset)
    q = parts.heads(q, config.num_heads)
    beta = step_size(linear(x, params["in_beta"]), config.negative_eigenvalues)
    k, v = (array.reshape(*x.shape[:2], *steps, -1) for array in (k, v))
    beta = beta.reshape(*x.shape[:2], *steps)
    log_decay = None
    if config.forget_gate:
        log_decay = gates.log_decay(linear(x, params["in_decay"]), params["a_log"], params["dt_bias"])
        log_decay = mark("log_decay", log_decay)
    q, k = parts.unit_norm(q), mark("keys", parts.unit_norm(k))
    o, after["s"] = delta_product_op(q, k, v, beta, log_decay, state["s"], reset=reset)
    after["s"] = mark("matrix_state", after["s"])
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    if config.output_gate:
        o = o * jax.nn.silu(linear(x, params["in_gate"]))
    return linear(mark("mixed", o), params["out_kernel"]), after


class DeltaProductLayer(Mixer):
    """Parameters of `delta_product`: D H (K + V + R (K + V + 1)) + W H (K + R (K + V)) + V of them.

    An output gate adds D HV, a forget gate D H + 2 H.
    """

    function = staticmethod(delta_product)

    def parameters(self, depth):
        config, d, h, (_, v) = self.config, self.dim, self.config.num_heads, self.config.sizes(self.dim)
        decay = {
            "in_decay": reads(fan_in, d, h),
            "a_log": rate(functools.partial(gates.log_uniform_a, low=0.0, high=16.0), h),
            "dt_bias": rate(gates.inverse_softplus_dt, h),
        }
        return {
            **projections(d, config.conv_width, config.widths(d)),
            "in_beta": reads(fan_in, d, config.num_householder * h),
            **(decay if config.forget_gate else {}),
            "norm_scale": vector(ones, v),
            **({"in_gate": reads(fan_in, d, h * v)} if config.output_gate else {}),
            "out_kernel": writes(after_norm, h * v, d),
        }
