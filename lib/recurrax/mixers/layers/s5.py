"""S5, one state space for all channels (Smith et al., 2022, arXiv 2208.04933).

    h_t = exp(a dt) h_{t-1} + (exp(a dt) - 1) / a (B x_t)      a = -exp(log_a_real) + i a_imag
    y_t = 2 Re(C h_t) + skip x_t
    out = g_t sigmoid(W g_t + b)                               g_t = GELU(y_t)

P states in P / 2 conjugate pairs, each with its own step dt. They start as J blocks of the normal part of HiPPO-LegS,
diagonalised, with B and C transformed into that basis. The published code leaves the real part of a unconstrained or
clips it; here it stays negative, as in S4D.
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
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import diagonal_scan, linear, scale, shift
from recurrax.ops.dtypes import upcast
from recurrax.parameters import Parameter, rate, reads, vector, writes
from recurrax.types import Params, Reset

ACTIVATIONS = ("gelu", "half_glu1", "half_glu2", "full_glu")


@dataclasses.dataclass(frozen=True)
class S5(MixerConfig):
    """An S5 layer."""

    capabilities = RECURRENT

    state_dim: int = 256
    """Number of real states of the layer, P: P / 2 conjugate pairs."""
    num_blocks: int = 8
    """Number of HiPPO blocks of size P / J at initialisation, J."""
    discretization: str = "zoh"
    """Discretisation method, "zoh" or "bilinear"."""
    dt_min: float = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation; each pair draws log-uniformly between dt_min and dt_max."""
    rate: float = 1.0
    """Time between tokens relative to training, for example 2 for data sampled half as often."""
    activation: str = "half_glu1"
    """Output with g = GELU(y): "gelu" g, "half_glu1" g sigm(W g), "half_glu2" y sigm(W g), "full_glu" V g sigm(W g)."""

    def __post_init__(self):
        time_invariant.check(self)
        checks.positive(self, "num_blocks")
        if self.state_dim % (2 * self.num_blocks):
            raise ValueError(f"state_dim {self.state_dim} is not num_blocks {self.num_blocks} blocks of even size")
        checks.choice("discretization", self.discretization, time_invariant.DISCRETIZATIONS)
        checks.choice("activation", self.activation, ACTIVATIONS)

    def layer(self, dim, dtype=jnp.float32, name=None):
        return S5Layer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, self.state_dim // 2), jnp.complex64)


def s5(
    params: Params,
    x: Float[Array, "B T D"],
    state: Complex[Array, "B M"] | None,
    config: S5,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Complex[Array, "B M"]]:
    """Apply one diagonal state space to all channels; the state is h, complex64, M = P / 2."""
    dtype = x.dtype
    dt = config.rate * jnp.exp(upcast(params["log_dt"]))
    log_a, b = time_invariant.discretize(time_invariant.eigenvalues(params), dt, config.discretization)
    real, imag = (mark(f"values_{part}", upcast(linear(x, params[f"in_{part}"]))) for part in ("real", "imag"))
    log_a = mark("log_eigenvalues", log_a)
    h, state = diagonal_scan(jnp.exp(log_a), b[None, None] * jax.lax.complex(real, imag), state, reset=reset)
    h = 2 * mark("mixed", h)
    y = linear(h.real.astype(dtype), params["out_real"]) - linear(h.imag.astype(dtype), params["out_imag"])
    y = y + scale(x, params["skip"])
    g = jax.nn.gelu(y)
    if config.activation == "gelu":
        return g, state
    gate = mark("output_gate", jax.nn.sigmoid(_dense(params, "gate", g)))
    values = {"half_glu1": lambda: g, "half_glu2": lambda: y, "full_glu": lambda: _dense(params, "value", g)}
    return values[config.activation]() * gate, state


def _dense(params, name, x):
    return shift(linear(x, params[f"{name}_kernel"]), params[f"{name}_bias"])


class S5Layer(Mixer):
    """Parameters of `s5`: P (2 D + 3/2) + D of them, D (D + 1) for half a GLU and twice that for a whole one.

    As in the authors' standard configuration, B is trained like the eigenvalues, without weight decay; C is decayed.
    """

    function = staticmethod(s5)

    def parameters(self, depth):
        d, p, j, activation = self.dim, self.config.state_dim, self.config.num_blocks, self.config.activation
        block = hippo.diagonalised_legs(p // j)
        dense = [] if activation == "gelu" else ["gate", "value"] if activation == "full_glu" else ["gate"]
        b = nn.initializers.normal(math.sqrt(0.5 / p))
        return {
            "log_a_real": rate(time_invariant.constant(np.log(-np.tile(block.a.real, j))), p // 2),
            "a_imag": rate(time_invariant.constant(np.tile(block.a.imag, j)), p // 2),
            "log_dt": rate(functools.partial(time_invariant.log_steps, config=self.config), p // 2),
            "skip": vector(nn.initializers.normal(1.0), d, "embed"),
            # V^H B and C V with real normal B and complex normal C of variance 1 / P: V, unitary, only rotates them.
            **{name: Parameter(b, (d, p // 2), ("embed", "heads"), "recurrence") for name in ("in_real", "in_imag")},
            **{name: writes(nn.initializers.normal(math.sqrt(1 / p)), p // 2, d) for name in ("out_real", "out_imag")},
            **{f"{name}_kernel": reads(fan_in, d, d, "inner") for name in dense},
            **{f"{name}_bias": vector(zeros, d, "embed") for name in dense},
        }
