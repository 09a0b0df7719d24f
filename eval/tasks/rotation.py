"""A diagonal recurrence whose complex eigenvalues depend on the input: what can follow abelian groups, and no others.

    h_t = exp(i theta_t) * h_{t-1} + B x_t            theta_t = W x_t + b
    y_t = Re(C h_t)                                    B, C complex

Eigenvalues on the unit circle that the input turns, as Grazzi et al., 2024 (arXiv 2411.12537) ask of layers that count
modulo n. Products of such transitions commute. None of the library's published layers has them.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import Mixer, MixerConfig
from recurrax.mixers.base import fan_in
from recurrax.ops import diagonal_scan, linear, shift
from recurrax.parameters import rate, reads, writes


@dataclasses.dataclass(frozen=True)
class Rotation(MixerConfig):
    """A layer of N complex states that the input turns."""

    capabilities = RECURRENT

    state_dim: int = 64
    """N."""

    def __post_init__(self):
        checks.positive(self, "state_dim")

    def layer(self, dim, dtype=jnp.float32, name=None):
        return RotationLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, self.state_dim), jnp.complex64)


def rotation(params, x, state, config, *, reset=None):
    """y_t = Re(C h_t) with h_t = exp(i theta_t) h_{t-1} + B x_t; the state is h, complex64."""
    del config
    theta = shift(linear(x, params["angle_kernel"]), params["angle_bias"]).astype(jnp.float32)
    values = jax.lax.complex(*(linear(x, params[f"in_{part}"]).astype(jnp.float32) for part in ("real", "imag")))
    h, state = diagonal_scan(jnp.exp(1j * theta), values, state, reset=reset)
    return linear(h.real.astype(x.dtype), params["out_real"]) + linear(
        h.imag.astype(x.dtype), params["out_imag"]
    ), state


class RotationLayer(Mixer):
    """N (5 D + 1) parameters."""

    function = staticmethod(rotation)

    def parameters(self, depth):
        n, d = self.config.state_dim, self.dim
        return {
            "angle_kernel": reads(fan_in, d, n),
            "angle_bias": rate(nn.initializers.uniform(2 * math.pi), n),
            **{f"in_{part}": reads(fan_in, d, n) for part in ("real", "imag")},
            **{f"out_{part}": writes(fan_in, n, d) for part in ("real", "imag")},
        }
