"""S4D, diagonal state spaces (Gu et al., 2022, arXiv 2206.11893).

    d/dt h = a h + x               per channel; a = -exp(log_a_real) + i a_imag, one of each conjugate pair
    h_t    = exp(a dt) h_{t-1} + (exp(a dt) - 1) / a x_t
    y_t    = 2 Re(c h_t) + skip x_t
    out    = (W_out g_t + b) sigmoid(W_gate g_t + b_gate)     g_t = GELU(y_t)

The paper's B is 1 here: the outputs depend only on its product with C.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import hippo, time_invariant
from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.marks import mark
from recurrax.ops import scale, state_space
from recurrax.ops.dtypes import upcast
from recurrax.parameters import rate, vector
from recurrax.types import Params, Reset

INITS = ("lin", "inv", "legs", "random")


@dataclasses.dataclass(frozen=True)
class S4D(MixerConfig):
    """An S4D layer."""

    capabilities = RECURRENT

    state_dim: int = 64
    """Number of real states per channel, N: N / 2 conjugate pairs."""
    init: str = "lin"
    """Initial eigenvalues: "lin" -1/2 + i pi n, "inv" -1/2 + i N/pi (N/(2n+1) - 1), "legs" those of HiPPO-LegS,
    "random" -exp(u) + i v with u and v normal, the paper's baseline."""
    discretization: str = "zoh"
    """Discretisation method, "zoh" or "bilinear"."""
    dt_min: float = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation; each channel draws log-uniformly between dt_min and dt_max."""
    rate: float = 1.0
    """Time between tokens relative to training, for example 2 for data sampled half as often."""
    gate: bool = True
    """Whether the output is a GLU as in the published code, instead of one matrix."""

    def __post_init__(self):
        time_invariant.check(self)
        checks.choice("init", self.init, INITS)
        checks.choice("discretization", self.discretization, time_invariant.DISCRETIZATIONS)

    def layer(self, dim, dtype=jnp.float32, name=None):
        return S4DLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, dim, self.state_dim // 2), jnp.complex64)


def s4d(
    params: Params,
    x: Float[Array, "B T D"],
    state: Complex[Array, "B D M"] | None,
    config: S4D,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Complex[Array, "B D M"]]:
    """Apply diagonal state spaces; the state is h, complex64, M = N / 2."""
    x, dt = mark("values", x), config.rate * jnp.exp(upcast(params["log_dt"]))[:, None]
    log_a, b = time_invariant.discretize(time_invariant.eigenvalues(params), dt, config.discretization)
    c, log_a = 2 * jax.lax.complex(upcast(params["c_real"]), upcast(params["c_imag"])), mark("log_eigenvalues", log_a)
    y, state = state_space(x, log_a, b, c[:, None], state, reset=reset)
    y = y[..., 0] + scale(x, params["skip"])
    return time_invariant.mix_channels(params, y), state


class S4DLayer(Mixer):
    """Parameters of `s4d`: D (2 N + 2 + D + 1) of them, and D (D + 1) for the gate."""

    function = staticmethod(s4d)

    def parameters(self, depth):
        d, n, init = self.dim, self.config.state_dim, self.config.init
        a, b = _start(init, n)
        eigenvalues = {
            "log_a_real": time_invariant.constant(np.log(-a.real)),
            "a_imag": time_invariant.constant(a.imag),
        }
        if init == "random":
            eigenvalues = dict.fromkeys(eigenvalues, nn.initializers.normal(1.0))
        read_out = functools.partial(_read_out, scale=np.abs(b))
        return {
            **{name: rate(init, d, n // 2) for name, init in eigenvalues.items()},
            "c_real": time_invariant.read_out(read_out, d, n // 2),
            "c_imag": time_invariant.read_out(read_out, d, n // 2),
            "log_dt": rate(functools.partial(time_invariant.log_steps, config=self.config), d),
            "skip": vector(nn.initializers.normal(1.0), d),
            **time_invariant.channel_parameters(d, d, self.config.gate),
        }


def _start(init, n):
    """Return the initial a and B, one per conjugate pair."""
    index = np.arange(n // 2)
    if init == "legs":
        start = hippo.diagonalised_legs(n)
        return start.a, start.b
    frequencies = n / math.pi * (n / (2 * index + 1) - 1) if init == "inv" else math.pi * index
    return -0.5 + 1j * frequencies, np.ones(n // 2)


def _read_out(key, shape, dtype, *, scale):
    """Initialise one part of C B, with C complex normal of variance 1: its phase is uniform, so only |B| matters."""
    return math.sqrt(0.5) * jnp.asarray(scale, dtype)[None] * jax.random.normal(key, shape, dtype)
