"""Provide step sizes, discretisation and channel mixing for the time-invariant state-space layers."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Inexact

from recurrax import checks
from recurrax.mixers.base import MixerConfig, fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, shift
from recurrax.ops.dtypes import complexify, upcast
from recurrax.parameters import Parameter, vector, writes
from recurrax.types import ArrayLike, Dtype, Params

DISCRETIZATIONS = ("zoh", "bilinear")


def check(config: MixerConfig, *, pairs: bool = True) -> None:
    """Raise ValueError if state_dim (even for conjugate pairs), dt_min, dt_max or rate is out of range."""
    checks.positive(config, "state_dim", "dt_min", "dt_max", "rate")
    if pairs and config.state_dim % 2:
        raise ValueError(f"state_dim must be even, it counts conjugate pairs twice, got {config.state_dim}")
    checks.ordered(config, "dt_min", "dt_max")


def log_steps(
    key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32, *, config: MixerConfig
) -> Float[Array, "..."]:
    """Draw log dt uniformly between log dt_min and log dt_max."""
    low, high = math.log(config.dt_min), math.log(config.dt_max)
    return low + (high - low) * jax.random.uniform(key, shape, dtype)


def constant(value: np.ndarray) -> Callable[..., Array]:
    """Return the initializer with this value, broadcast over the leading axes of the shape."""
    return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(jnp.asarray(value, dtype), shape)


def eigenvalues(params: Params) -> Complex[Array, "..."]:
    """Return a = -exp(log_a_real) + i a_imag, which is in the left half plane for all parameter values."""
    return jax.lax.complex(-jnp.exp(upcast(params["log_a_real"])), upcast(params["a_imag"]))


def discretize(
    a: Complex[Array, "..."], dt: Float[Array, "..."], method: str
) -> tuple[Complex[Array, "..."], Complex[Array, "..."]]:
    """Return log A and the factor of B for steps of dt.

    "zoh": A = exp(a dt) and (exp(a dt) - 1) / a. "bilinear": A = (1 + a dt/2) / (1 - a dt/2), which has no logarithm
    at the one point a dt = -2, and dt / (1 - a dt/2).
    """
    dt = complexify(dt)
    z = a * dt
    if method == "zoh":
        return z, dt * _mean_exponential(z)
    return jnp.log1p(z / 2) - jnp.log1p(-z / 2), dt / (1 - z / 2)


def _mean_exponential(z):
    """Return (exp(z) - 1) / z, exact to rounding with its gradient; near 0 the plain quotient cancels."""
    series = jnp.ones_like(z)
    for i in range(10, 1, -1):
        series = 1 + z / i * series
    small = jnp.abs(z.real) + jnp.abs(z.imag) < 0.5
    return jnp.where(small, series, jnp.expm1(z) / jnp.where(small, 1, z))


def before(
    state: Inexact[Array, "B D N"] | None, reset: Bool[ArrayLike, "B 1"] | None, initial: Inexact[Array, "B D N"]
) -> Inexact[Array, "B D N"]:
    """Return the state before a single token: the initial state if it is None or reset."""
    state = initial if state is None else state
    return state if reset is None else jnp.where(jnp.asarray(reset)[..., None], initial, state)


def mix_channels(params: Params, y: Float[Array, "B T E"]) -> Float[Array, "B T D"]:
    """Return W_out GELU(y) + b, times sigmoid(W_gate GELU(y) + b_gate) if there is a gate."""
    y = mark("mixed", jax.nn.gelu(y, approximate=False))
    out = shift(linear(y, params["out_kernel"]), params["output_bias"])
    if "out_gate" not in params:
        return out
    gate = shift(linear(y, params["out_gate"]), params["gate_bias"])
    return out * mark("output_gate", jax.nn.sigmoid(gate))


def channel_parameters(width: int, dim: int, gate: bool) -> dict[str, Parameter]:
    """Declare the parameters of `mix_channels`: D (E + 1) of them, twice as many with a gate."""
    parameters = {"out_kernel": writes(fan_in, width, dim), "output_bias": vector(zeros, dim, "embed")}
    if gate:
        parameters |= {"out_gate": writes(fan_in, width, dim), "gate_bias": vector(zeros, dim, "embed")}
    return parameters


def read_out(init: Callable[..., Array], *shape: int) -> Parameter:
    """Declare C of a state space per channel: (D, N), or (D, M, N) with M outputs.

    The authors of S4 decay it and train it like any matrix. Here no coefficient of a single channel is decayed.
    """
    return Parameter(init, shape, ("channels", *[None] * (len(shape) - 2), "state"), "vector")
