"""LRU, the linear recurrent unit (Orvieto et al., 2023, arXiv 2303.06349).

    h_t = lambda * h_{t-1} + gamma * (B x_t)          lambda = exp(-exp(nu_log) + i exp(theta_log))
    y_t = Re(C h_t) + D * x_t                         gamma  = sqrt(1 - |lambda|^2) at initialisation

A complex diagonal state of size N. The eigenvalues start on a ring r_min <= |lambda| <= r_max, and their
parametrisation keeps them inside the unit disk. The nonlinearity is in the projection that follows the layer.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from recurrax.layers import RECURRENT
from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.marks import mark
from recurrax.ops import diagonal_scan, linear, scale
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, rate, vector, writes
from recurrax.types import Params, Reset


@dataclasses.dataclass(frozen=True)
class LRU(MixerConfig):
    """An LRU layer."""

    capabilities = RECURRENT

    state_dim: int = 256
    """Number of complex states, N."""
    r_min: float = 0.9
    """Smallest modulus of an eigenvalue at initialisation."""
    r_max: float = 0.999
    """Largest modulus of an eigenvalue at initialisation."""
    max_phase: float = 2 * math.pi
    """Largest phase of an eigenvalue at initialisation, in radians."""

    def __post_init__(self):
        if self.state_dim < 1:
            raise ValueError(f"state_dim must be at least 1, got {self.state_dim}")
        if not 0 <= self.r_min < self.r_max < 1:
            raise ValueError(f"the ring needs 0 <= r_min < r_max < 1, got r_min={self.r_min}, r_max={self.r_max}")
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase must be in (0, 2 pi], got {self.max_phase}")

    def layer(self, dim, dtype=jnp.float32, name=None):
        return LRULayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, self.state_dim), jnp.complex64)


def eigenvalues(params: Params) -> Complex[Array, " N"]:
    """Return lambda = exp(-exp(nu_log) + i exp(theta_log))."""
    nu, theta = (jnp.exp(upcast(params[name])) for name in ("nu_log", "theta_log"))
    log = jax.lax.complex(-nu, theta)
    return jnp.exp(mark("log_eigenvalues", log))


def lru(
    params: Params,
    x: Float[Array, "B T D"],
    state: Complex[Array, "B N"] | None,
    config: LRU,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Complex[Array, "B N"]]:
    """Return y_t = Re(C h_t) + D x_t with h_t = lambda h_{t-1} + gamma B x_t; the state is h, complex64."""
    del config
    dtype = x.dtype
    gamma = jnp.exp(upcast(params["gamma_log"]))[None, None]
    real, imag = (gamma * mark(f"values_{part}", upcast(linear(x, params[f"in_{part}"]))) for part in ("real", "imag"))
    h, state = diagonal_scan(eigenvalues(params), jax.lax.complex(real, imag), state, reset=reset)
    h = mark("mixed", h)
    y = linear(h.real.astype(dtype), params["out_real"]) - linear(h.imag.astype(dtype), params["out_imag"])
    return y + scale(x, params["skip"]), state


class LRULayer(Mixer):
    """Parameters of `lru`: N (4 D + 3) + D of them.

    As in the authors' experiments, B is trained like the eigenvalues, without weight decay; C is decayed.
    """

    function = staticmethod(lru)

    def parameters(self, depth):
        n, d, config = self.config.state_dim, self.dim, self.config
        b = nn.initializers.normal(1 / math.sqrt(2 * d))
        return {
            "nu_log": rate(functools.partial(_ring, r_min=config.r_min, r_max=config.r_max), n),
            "theta_log": rate(functools.partial(_log_phases, max_phase=config.max_phase), n),
            **{name: Parameter(b, (d, n), ("embed", "heads"), "recurrence") for name in ("in_real", "in_imag")},
            **{name: writes(nn.initializers.normal(1 / math.sqrt(n)), n, d) for name in ("out_real", "out_imag")},
            "skip": vector(nn.initializers.normal(1.0), d, "embed"),
            "gamma_log": rate(lambda key, shape, dtype: _log_gain(self.get_variable("params", "nu_log")), n),
        }


def _log_gain(nu_log):
    """Return log sqrt(1 - |lambda|^2), |lambda|^2 = exp(-2 exp(nu_log)); expm1 keeps precision near the unit circle."""
    return 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu_log)))


def _ring(key, shape, dtype, *, r_min, r_max):
    """Initialise nu_log such that |lambda|^2 is uniform in [r_min^2, r_max^2], uniform on the area of the ring."""
    # uniform() is in [0, 1): subtracted from the outer edge, so that |lambda| is never 0, where log has no gradient.
    squared = r_max**2 - jax.random.uniform(key, shape, dtype) * (r_max**2 - r_min**2)
    return jnp.log(-0.5 * jnp.log(squared))


def _log_phases(key, shape, dtype, *, max_phase):
    """Initialise theta_log such that the phase is uniform in (0, max_phase]."""
    return jnp.log(max_phase * (1 - jax.random.uniform(key, shape, dtype)))
