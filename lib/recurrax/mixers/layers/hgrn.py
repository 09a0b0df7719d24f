"""HGRN, the hierarchically gated recurrent network (Qin et al., 2023, arXiv 2311.04823).

    h_t = f_t e^{i theta} h_{t-1} + (1 - f_t) c_t       f_t = b + (1 - b) sigmoid(W_f x_t + b_f)
    c_t = silu(W_r x_t + b_r) + i silu(W_i x_t + b_i)
    y_t = W_out LayerNorm( sigmoid(W_g x_t + b_g) * [Re h_t, Im h_t] ) + b_out

b is learned and rises with depth: upper layers have longer memory. theta is learned too; it starts from the angles
of rotary positions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import gates, parts, rotary
from recurrax.mixers.base import Mixer, MixerConfig, after_norm, fan_in, ones, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import diagonal_scan, linear, shift
from recurrax.ops.dtypes import complexify, upcast
from recurrax.parameters import rate, reads, vector, writes
from recurrax.types import Dtype, Params, Reset


@dataclasses.dataclass(frozen=True)
class HGRN(MixerConfig):
    """An HGRN layer."""

    capabilities = RECURRENT

    width: int | None = None
    """Number of complex states, E; None is the model's dimension."""
    rotary_base: float = 10_000.0
    """Base of the initial theta: the longest period over 2 pi."""
    norm_eps: float = 1e-5
    """Epsilon added to the variance in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))

    def layer(self, dim, dtype=jnp.float32, name=None):
        return HGRNLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, self.width or dim), jnp.complex64)


def hgrn(
    params: Params,
    x: Float[Array, "B T D"],
    state: Complex[Array, "B E"] | None,
    config: HGRN,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Complex[Array, "B E"]]:
    """Apply the gated recurrence with rotating states; the state is h, complex64."""

    def project(name):
        return shift(linear(x, params[f"in_{name}"]), params[f"{name}_bias"])

    log_f, released = gates.bounded_forget(project("forget"), params["lower_bound"])
    real, imag = (released * mark(f"values_{name}", upcast(jax.nn.silu(project(name)))) for name in ("real", "imag"))
    theta = upcast(params["theta"])[None, None]
    decay = complexify(jnp.exp(mark("log_decay", log_f))) * jax.lax.complex(jnp.cos(theta), jnp.sin(theta))
    h, state = diagonal_scan(mark("eigenvalues", decay), jax.lax.complex(real, imag), state, reset=reset)
    h = mark("mixed", h)
    h = jnp.concatenate([h.real, h.imag], axis=-1).astype(x.dtype)
    h = mark("output_gate", jax.nn.sigmoid(project("gate"))) * h
    h = parts.layer_norm(h, params["norm_scale"], params["norm_bias"], config.norm_eps)
    return shift(linear(h, params["out_kernel"]), params["bias"]), state


class HGRNLayer(Mixer):
    """Parameters of `hgrn`: 7 D E + 11 E + D of them."""

    function = staticmethod(hgrn)

    def parameters(self, depth):
        d, e = self.dim, self.config.width or self.dim
        widths = {"real": e, "imag": e, "forget": e, "gate": 2 * e}
        return {
            **{f"in_{name}": reads(fan_in, d, width) for name, width in widths.items()},
            **{f"{name}_bias": vector(zeros, width) for name, width in widths.items()},
            "lower_bound": rate(functools.partial(gates.rising_bound, depth=depth.fraction), e),
            "theta": rate(functools.partial(_angles, base=self.config.rotary_base), e),
            "norm_scale": vector(ones, 2 * e),
            "norm_bias": vector(zeros, 2 * e),
            "out_kernel": writes(after_norm, 2 * e, d),
            "bias": vector(zeros, d, "embed"),
        }


def _angles(key: jax.Array, shape: tuple[int], dtype: Dtype = jnp.float32, *, base: float) -> Float[Array, " E"]:
    """Initialise theta_j = base^(-j / E)."""
    del key
    return rotary.frequencies(shape[0], base).astype(dtype)
