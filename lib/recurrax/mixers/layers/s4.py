"""S4, structured state spaces (Gu et al., 2021, arXiv 2111.00396).

    d/dt h = A h + B x                 per channel; A = Lambda - p p^H, initialised as HiPPO-LegS
    h_t = (I - dt/2 A)^-1 ((I + dt/2 A) h_{t-1} + dt B x_t)
    y_t = 2 Re(C h_t) + skip x_t
    out = W_out GELU(y_t) + b          or a GLU, as in the published code

Lambda = -exp(log_a_real) + i a_imag and p, B, C are complex, one of each conjugate pair. A single token costs O(N), by
Woodbury's identity. The kernel of a long sequence is the inverse Fourier transform of its generating function at the
roots of unity w = e^{-i theta}, computed by Cauchy sums (appendix C.3). With C~ = C (I - A_bar^T), and the common
factor cancelled so that nothing is divided by 1 + w:

    K(w) = e^{i theta/2} ( <C~, B> - cos(theta/2) <C~, p> <p^H, B> / (1 + cos(theta/2) <p^H, p>) )
    <u, v> = sum over pairs and conjugates of u_n v_n / (2i/dt sin(theta/2) - cos(theta/2) Lambda_n)
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from recurrax.layers import RECURRENT
from recurrax.mixers import hippo, time_invariant
from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.marks import mark
from recurrax.ops import scale, state_space
from recurrax.ops.dtypes import complexify, upcast
from recurrax.ops.families.long_convolution.api import fft_length
from recurrax.ops.families.state_space import powers
from recurrax.parameters import rate, vector
from recurrax.types import Params, Reset

CHANNELS = 16
"""Number of channels whose Cauchy matrices are in memory at once."""


@dataclasses.dataclass(frozen=True)
class S4(MixerConfig):
    """An S4 layer."""

    capabilities = RECURRENT

    state_dim: int = 64
    """Number of real states per channel, N: N / 2 conjugate pairs."""
    dt_min: float = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation; each channel draws log-uniformly between dt_min and dt_max."""
    rate: float = 1.0
    """Time between tokens relative to training, for example 2 for data sampled half as often."""
    gate: bool = False
    """Whether the output is a GLU as in the later published code, instead of one matrix."""

    def __post_init__(self):
        time_invariant.check(self)

    def layer(self, dim, dtype=jnp.float32, name=None):
        return S4Layer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, dim, self.state_dim // 2), jnp.complex64)


def s4(
    params: Params,
    x: Float[Array, "B T D"],
    state: Complex[Array, "B D M"] | None,
    config: S4,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Complex[Array, "B D M"]]:
    """Apply structured state spaces; the state is h, complex64, M = N / 2."""
    x, dt = mark("values", x), config.rate * jnp.exp(upcast(params["log_dt"]))[:, None]
    p, b, c = (jax.lax.complex(*(upcast(params[f"{name}_{part}"]) for part in ("real", "imag"))) for name in "pbc")
    dplr = DPLR(time_invariant.eigenvalues(params)[None], p[None], dt[None])
    b_bar = complexify(dt) * dplr.solve(b[None])[0]
    if x.shape[1] == 1:
        h = time_invariant.before(state, reset, config.init_state(*x.shape[::2]))
        state = h + dplr.change(h) + b_bar[None] * complexify(x[:, 0, :, None])
        y = 2 * (c[None] * state).real.sum(-1)[:, None].astype(x.dtype)
    else:
        # Represent a pair's two states as real numbers: p^H h takes real parts, so A_bar is linear only over the reals.
        basis = jnp.eye(b.shape[1], dtype=b.dtype)
        units = jnp.concatenate([basis, 1j * basis])[:, None]
        less_identity = mark("less_identity", powers.real_state(dplr.change(units)).transpose(1, 2, 0))
        rows = 2 * powers.real_state(c.conj())[:, None]
        state = None if state is None else powers.real_state(state)
        kernel = functools.partial(_kernel, dplr, b, rows, less_identity)
        b_bar = powers.real_state(b_bar)
        y, state = state_space(x, less_identity, b_bar, rows, state, reset=reset, kernel=kernel)
        y, state = y[..., 0], powers.complex_state(state)
    y = y + scale(x, params["skip"])
    return time_invariant.mix_channels(params, y), state


class DPLR(NamedTuple):
    """The matrix A = a - p p^H and a step dt, applied to arrays (..., D, M) of one state per conjugate pair."""

    a: Complex[Array, "1 D M"]
    p: Complex[Array, "1 D M"]
    dt: Float[Array, "1 D 1"]

    def solve(self, v: Complex[Array, "#B #D M"]) -> Complex[Array, "#B D M"]:
        """Return (I - dt/2 A)^-1 v, by Woodbury's identity."""
        half = self.dt / 2
        inverse = 1 / (1 - complexify(half) * self.a)
        v = inverse * v
        scale = half / (1 + half * self.inner(inverse * self.p))
        return v - complexify(scale * self.inner(v)) * inverse * self.p

    def change(self, v: Complex[Array, "#B #D M"]) -> Complex[Array, "#B D M"]:
        """Return (A_bar - I) v = (I - dt/2 A)^-1 dt A v."""
        return complexify(self.dt) * self.solve(self.a * v - self.p * complexify(self.inner(v)))

    def inner(self, v: Complex[Array, "#B #D M"]) -> Float[Array, "#B D 1"]:
        """Return p^H v, summed over pairs and their conjugates."""
        return 2 * (self.p.conj() * v).real.sum(-1, keepdims=True)


def _kernel(dplr, b, rows, less_identity, length):
    """Return 2 Re(C A_bar^t B_bar) (D, 1, T); `rows` and `less_identity` are C and A_bar - I as real matrices."""
    size = fft_length(length)
    truncated = -powers.product(rows, powers.Powers(less_identity).power(size))[:, 0] / 2
    c = powers.complex_state(truncated).conj()
    half = np.pi * np.arange(size // 2 + 1) / size
    sin, cos, phase = (jnp.asarray(v, dplr.a.dtype) for v in (np.sin(half), np.cos(half), np.exp(1j * half)))

    @jax.checkpoint
    def transform(inputs):
        a, p, dt, b, c = inputs
        cauchy = 1 / (2j / complexify(dt) * sin[None] - cos[None] * jnp.concatenate([a, a.conj()])[:, None])
        pairs = jnp.stack([c * b, c * p, p.conj() * b, p.conj() * p])
        pairs = jnp.concatenate([pairs, pairs.conj()], axis=1)
        cb, cp, pb, pp = powers.product(pairs, cauchy)
        return phase * (cb - cos * cp * pb / (1 + cos * pp))

    waves = jax.lax.map(transform, (dplr.a[0], dplr.p[0], dplr.dt[0, :, 0], b, c), batch_size=CHANNELS)
    return jnp.fft.irfft(waves, size)[:, None, :length]


class S4Layer(Mixer):
    """Parameters of `s4`: D (4 N + 2 + D + 1) of them, and D (D + 1) for the gate."""

    function = staticmethod(s4)

    def parameters(self, depth):
        d, n = self.dim, self.config.state_dim
        legs, c = hippo.diagonalised_legs(n), nn.initializers.normal(math.sqrt(0.5))
        fixed = {
            "log_a_real": np.log(-legs.a.real),
            "a_imag": legs.a.imag,
            "p_real": legs.p.real,
            "p_imag": legs.p.imag,
            "b_real": legs.b.real,
            "b_imag": legs.b.imag,
        }
        return {
            **{name: rate(time_invariant.constant(value), d, n // 2) for name, value in fixed.items()},
            **{name: time_invariant.read_out(c, d, n // 2) for name in ("c_real", "c_imag")},
            "log_dt": rate(functools.partial(time_invariant.log_steps, config=self.config), d),
            "skip": vector(nn.initializers.normal(1.0), d),
            **time_invariant.channel_parameters(d, d, self.config.gate),
        }
