"""Gated DeltaNet (Yang et al., 2024, arXiv 2412.06464).

    q_t, k_t, v_t = silu(conv(W x))_t                       q and k then normalised to length 1
    b_t = sigmoid(W_b x_t)                                  one per head
    log a_t = -exp(A_log) softplus(W_a x_t + dt_bias)       one per head
    S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_out ( RMSNorm(o_t) * silu(W_g x_t) )            the norm over each head

DeltaNet with the decay of Mamba-2. Queries and keys are 3/4 as wide as the model, values 3/2.
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
from recurrax.ops import delta_rule, linear
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class GatedDeltaNet(MixerConfig):
    """A Gated DeltaNet layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of query and key heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is 3/4 dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is 3/2 dim / num_value_heads."""
    num_value_heads: int | None = None
    """Number of value and state heads, a multiple of num_heads; value head h uses query and key h // (their ratio).
    None is H."""
    negative_eigenvalues: bool = False
    """Whether b_t is 2 sigmoid(.): the transition's eigenvalue along a key is then in (-1, 1) instead of (0, 1)."""
    conv_width: int | None = 4
    """Number of taps of the short convolutions on q, k and v; None disables them."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        names = ("num_heads", "head_dim", "value_head_dim", "num_value_heads", "conv_width", "norm_eps")
        checks.positive(self, *names)
        if self.value_heads % self.num_heads:
            raise ValueError(f"num_value_heads {self.num_value_heads} is no multiple of num_heads {self.num_heads}")

    @property
    def value_heads(self) -> int:
        """Number of value heads: num_value_heads, or num_heads if it is None."""
        return self.num_value_heads or self.num_heads

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return (
            self.head_dim or checks.per_head("head_dim", 3 * dim // 4, self.num_heads),
            self.value_head_dim or checks.per_head("value_head_dim", 3 * dim // 2, self.value_heads),
        )

    def widths(self, dim: int) -> dict[str, int]:
        """Return the widths of queries, keys and values, over all heads."""
        k, v = self.sizes(dim)
        return {"q": self.num_heads * k, "k": self.num_heads * k, "v": self.value_heads * v}

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return GatedDeltaNetLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        state = {"s": jnp.zeros((batch_size, self.value_heads, *self.sizes(dim)), jnp.float32)}
        if self.conv_width:
            state["conv"] = parts.short_convolution_state(batch_size, self.conv_width, **self.widths(dim))
        return state


def gated_deltanet(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: GatedDeltaNet, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply Gated DeltaNet; the state is {"s": (B, H, K, V) float32}, and "conv" if there are convolutions."""
    state = state or {"s": None, "conv": None}
    (q, k, v), after = activated(params, x, state, config.conv_width, reset=reset)
    q, k = (parts.unit_norm(parts.heads(array, config.num_heads)) for array in (q, k))
    if config.value_heads > config.num_heads:
        q, k = (jnp.repeat(array, config.value_heads // config.num_heads, axis=2) for array in (q, k))
    k, v = mark("keys", k), parts.heads(v, config.value_heads)
    beta = step_size(linear(x, params["in_beta"]), config.negative_eigenvalues)
    log_decay = mark("log_decay", gates.log_decay(linear(x, params["in_decay"]), params["a_log"], params["dt_bias"]))
    o, after["s"] = delta_rule(q, k, v, beta, log_decay, state["s"], reset=reset)
    after["s"] = mark("matrix_state", after["s"])
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    return linear(mark("mixed", o * jax.nn.silu(linear(x, params["in_gate"]))), params["out_kernel"]), after


class GatedDeltaNetLayer(Mixer):
    """Parameters of `gated_deltanet`: D (2 HK + 3 H'V + 2 H') + W (2 HK + H'V) + 2 H' + V of them, H' value heads."""

    function = staticmethod(gated_deltanet)

    def parameters(self, depth):
        d, h, (_, v) = self.dim, self.config.value_heads, self.config.sizes(self.dim)
        return {
            **projections(d, self.config.conv_width, self.config.widths(d)),
            "in_beta": reads(fan_in, d, h),
            "in_decay": reads(fan_in, d, h),
            "a_log": rate(functools.partial(gates.log_uniform_a, low=0.0, high=16.0), h),
            "dt_bias": rate(gates.inverse_softplus_dt, h),
            "norm_scale": vector(ones, v),
            "in_gate": reads(fan_in, d, h * v),
            "out_kernel": writes(after_norm, h * v, d),
        }
