"""DeltaNet (Schlag et al., 2021, arXiv 2102.11174; Yang et al., 2024, arXiv 2406.06484).

    q_t, k_t, v_t = silu(conv(W x))_t               q and k then normalised to length 1
    b_t = sigmoid(W_b x_t)                          one per head
    S_t = S_{t-1} + b_t k_t (v_t - S_{t-1}^T k_t)^T
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_out RMSNorm(o_t)                        the norm over each head

The update corrects the value that the state stores for k_t. With b_t in (0, 2) the stored value can also change its
sign (arXiv 2411.12537).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones
from recurrax.mixers.marks import mark
from recurrax.ops import delta_rule, linear
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class DeltaNet(MixerConfig):
    """A DeltaNet layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    head_dim: int | None = None
    """Query and key size per head, K; None is dim / num_heads."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    negative_eigenvalues: bool = False
    """Whether b_t is 2 sigmoid(.): the transition's eigenvalue along a key is then in (-1, 1) instead of (0, 1)."""
    output_gate: bool = False
    """Whether the normalised output is multiplied by silu(W_g x)."""
    conv_width: int | None = 4
    """Number of taps of the short convolutions on q, k and v; None disables them."""
    norm_eps: float = 1e-5
    """Epsilon added to each head's mean square in the norm."""

    def __post_init__(self):
        checks.positive(self, "num_heads", "head_dim", "value_head_dim", "conv_width", "norm_eps")

    def sizes(self, dim: int) -> tuple[int, int]:
        """Return the head sizes K and V."""
        return checks.head_sizes(self, keys=dim, values=dim)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return DeltaNetLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        h, (k, v) = self.num_heads, self.sizes(dim)
        state = {"s": jnp.zeros((batch_size, h, k, v), jnp.float32)}
        if self.conv_width:
            state["conv"] = parts.short_convolution_state(batch_size, self.conv_width, q=h * k, k=h * k, v=h * v)
        return state


def deltanet(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: DeltaNet, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply DeltaNet; the state is {"s": (B, H, K, V) float32}, and "conv" if there are convolutions."""
    state = state or {"s": None, "conv": None}
    (q, k, v), after = activated(params, x, state, config.conv_width, reset=reset)
    q, k, v = (parts.heads(array, config.num_heads) for array in (q, k, v))
    beta = step_size(linear(x, params["in_beta"]), config.negative_eigenvalues)
    q, k = parts.unit_norm(q), mark("keys", parts.unit_norm(k))
    o, after["s"] = delta_rule(q, k, v, beta, None, state["s"], reset=reset)
    after["s"] = mark("matrix_state", after["s"])
    o = parts.merge(parts.rms_norm(o, params["norm_scale"], config.norm_eps))
    if config.output_gate:
        o = o * jax.nn.silu(linear(x, params["in_gate"]))
    return linear(mark("mixed", o), params["out_kernel"]), after


def activated(
    params: Params, x: Float[Array, "B T D"], state: State, conv_width: int | None, *, reset: Reset | None
) -> tuple[tuple[Float[Array, "B T _"], ...], State]:
    """Return silu(conv(W x)) for q, k and v and the state {"conv": ...}; silu(W x) and {} without a convolution."""
    qkv = {name: linear(x, params[f"in_{name}"]) for name in "qkv"}
    qkv["v"] = mark("values", qkv["v"])
    if conv_width is None:
        return tuple(jax.nn.silu(array) for array in qkv.values()), {}
    qkv, conv = parts.short_convolutions(params, qkv, state["conv"], reset=reset)
    return tuple(qkv.values()), {"conv": conv}


def step_size(logits: Float[Array, "..."], negative_eigenvalues: bool) -> Float[Array, "..."]:
    """Return the delta rule's b = sigmoid(logits) in float32; twice that if eigenvalues 1 - b may be negative."""
    beta = jax.nn.sigmoid(upcast(logits))
    return mark("beta", 2 * beta if negative_eigenvalues else beta)


def projections(dim: int, conv_width: int | None, widths: dict[str, int]) -> dict[str, Parameter]:
    """Declare the parameters of `activated`: D E for each width E, and W E for its convolution."""
    kernels = {f"in_{name}": reads(fan_in, dim, e) for name, e in widths.items()}
    if conv_width is None:
        return kernels
    return {**kernels, **{f"conv_{name}": parts.taps(conv_width, e) for name, e in widths.items()}}


class DeltaNetLayer(Mixer):
    """Parameters of `deltanet`: D H (2 K + 2 V + 1) + W H (2 K + V) + V of them, and D H V for an output gate."""

    function = staticmethod(deltanet)

    def parameters(self, depth):
        d, h, (k, v) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        gate = {"in_gate": reads(fan_in, d, h * v)} if self.config.output_gate else {}
        return {
            **projections(d, self.config.conv_width, {"q": h * k, "k": h * k, "v": h * v}),
            "in_beta": reads(fan_in, d, h),
            "norm_scale": vector(ones, v),
            **gate,
            "out_kernel": writes(after_norm, h * v, d),
        }
