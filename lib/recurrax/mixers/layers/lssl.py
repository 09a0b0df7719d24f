"""LSSL, linear state-space layers (Gu et al., 2021, arXiv 2110.13985).

    d/dt h = A h + B x                           per channel; A = -(diag(exp(log_a)) + tril(p q^T, -1))
    h_t = (I - alpha dt A)^-1 ((I + (1 - alpha) dt A) h_{t-1} + dt B x_t)
    y_t = C h_t + skip x_t                       M rows per channel
    out = W_out GELU(y_t) + b

All channels share A and B, which start as HiPPO-LegS. Every A of this form is a quasi-separable matrix, which the paper
trains. alpha = 1/2 is the bilinear transform.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import hippo, parts, time_invariant
from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.marks import mark
from recurrax.ops import diagonal_scan, scale, state_space
from recurrax.ops.dtypes import upcast
from recurrax.ops.sharding import whole
from recurrax.parameters import Parameter, rate
from recurrax.types import Params, Reset


@dataclasses.dataclass(frozen=True)
class LSSL(MixerConfig):
    """An LSSL layer."""

    capabilities = RECURRENT

    state_dim: int = 64
    """Number of states per channel, N."""
    num_outputs: int = 1
    """Number of rows of C per channel, M."""
    alpha: float = 0.5
    """Parameter of the generalised bilinear transform: 0 is forward Euler, 1/2 bilinear, 1 backward Euler."""
    dt_min: float = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: float = 0.1
    """Largest step size dt at initialisation; each channel draws log-uniformly between dt_min and dt_max."""
    rate: float = 1.0
    """Time between tokens relative to training, for example 2 for data sampled half as often."""

    def __post_init__(self):
        time_invariant.check(self, pairs=False)
        checks.positive(self, "num_outputs")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")

    def layer(self, dim, dtype=jnp.float32, name=None):
        return LSSLLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, dim, self.state_dim), jnp.float32)


def lssl(
    params: Params,
    x: Float[Array, "B T D"],
    state: Float[Array, "B D N"] | None,
    config: LSSL,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B D N"]]:
    """Apply state spaces with a trained HiPPO matrix; the state is h, float32."""
    x, dt = mark("values", x), config.rate * jnp.exp(upcast(params["log_dt"]))[:, None, None]
    b, c = upcast(params["b"]), upcast(params["c"])
    solve = functools.partial(_solve, params, config.alpha * dt)
    if x.shape[1] == 1 and config.alpha >= 0.5:
        # A_bar = I + ((I - alpha dt A)^-1 - I) / alpha: for one token, one right-hand side per row of the batch.
        h = time_invariant.before(state, reset, config.init_state(*x.shape[::2]))
        drive = dt * b[None, :, None] * x[:, 0].T.astype(h.dtype)[:, None]
        solved = solve(jnp.moveaxis(h, 0, 2) + config.alpha * drive)
        state = h + (jnp.moveaxis(solved, 2, 0) - h) / config.alpha
        y = jnp.einsum("dmn,bdn->bdm", c, state, precision=jax.lax.Precision.HIGHEST)[:, None].astype(x.dtype)
    else:
        log_a, left, right = (upcast(params[name]) for name in ("log_a", "a_left", "a_right"))
        a = -(jnp.diag(jnp.exp(log_a)) + jnp.tril(left[:, None] * right[None], -1))
        solved = solve(dt * jnp.concatenate([a, b[:, None]], axis=1)[None])
        less_identity = mark("less_identity", solved[..., :-1])
        y, state = state_space(x, less_identity, solved[..., -1], c, state, reset=reset)
    y = y + scale(jnp.broadcast_to(x[..., None], y.shape), params["skip"])
    return time_invariant.mix_channels(params, parts.merge(y)), state


def _solve(params, dt, r):
    """Return (I - dt A)^-1 r for every channel: dt (D, 1, 1), r (D, N, M).

    Forward substitution, y_i = (r_i - dt p_i s_i) / d_i with d = 1 + dt exp(log_a), in which s_i = sum_{j<i} q_j y_j is
    itself a linear recurrence: s_{i+1} = (1 - dt p_i q_i / d_i) s_i + q_i r_i / d_i.
    """
    log_a, p, q = (upcast(params[name])[None, :, None] for name in ("log_a", "a_left", "a_right"))
    d = 1 + dt * jnp.exp(log_a)
    y = r / d
    with whole():  # a scan over the states of a channel
        s, _ = diagonal_scan(jnp.broadcast_to(1 - dt * p * q / d, r.shape), q * y)
    return y - dt * p / d * jnp.pad(s[:, :-1], ((0, 0), (1, 0), (0, 0)))


class LSSLLayer(Mixer):
    """Parameters of `lssl`: 4 N + D (M (N + 1) + 1) + D (M D + 1) of them."""

    function = staticmethod(lssl)

    def parameters(self, depth):
        d, n, m = self.dim, self.config.state_dim, self.config.num_outputs
        _, b = hippo.legs(n)

        def state(value):
            """All channels share A and B."""
            return Parameter(time_invariant.constant(value), (n,), ("state",), "recurrence")

        return {
            "log_a": state(np.log(np.arange(n) + 1.0)),
            "a_left": state(b),
            "a_right": state(b),
            "b": state(b),
            "c": time_invariant.read_out(nn.initializers.normal(1.0), d, m, n),
            "log_dt": rate(functools.partial(time_invariant.log_steps, config=self.config), d),
            "skip": Parameter(nn.initializers.normal(1.0), (d, m), ("channels", None), "vector"),
            **time_invariant.channel_parameters(d * m, d, gate=False),
        }
