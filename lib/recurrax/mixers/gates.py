"""Provide gates that several papers share: Mamba's decay, also used by the gated delta rules, and HGRN's bounded gate.

log a_t = -exp(A_log) softplus(W x_t + dt_bias)        dt = softplus(.) is the step size, A the decay rate
f_t = b + (1 - b) sigmoid(W x_t)                       b in (0, 1) is learned
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops.dtypes import upcast
from recurrax.types import Dtype, Scalar


def log_decay(
    logits: Float[Array, "B T *H"], a_log: Float[Array, "..."], dt_bias: Float[Array, "..."]
) -> Float[Array, "B T *H"]:
    """Return log a = -exp(A_log) softplus(logits + dt_bias) in float32; A_log and dt_bias broadcast to *H."""
    # Upcast before exp: in bfloat16 a rate has a relative error of up to 2^-9, which accumulates in the total decay.
    dt = jax.nn.softplus(upcast(logits) + upcast(dt_bias)[None, None])
    return -jnp.exp(upcast(a_log))[None, None] * dt


def log_uniform_a(
    key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32, *, low: float, high: float
) -> Float[Array, "..."]:
    """Initialise A_log = log A with A uniform in (low, high]."""
    # uniform() is in [0, 1): subtracted from the upper end, so that A is never 0, which has no logarithm.
    return jnp.log(high - (high - low) * jax.random.uniform(key, shape, dtype))


def inverse_softplus_dt(
    key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32, *, dt_min: float = 1e-3, dt_max: float = 1e-1
) -> Float[Array, "..."]:
    """Initialise dt_bias such that softplus(dt_bias) = dt is log-uniform in [dt_min, dt_max)."""
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(dt_min), math.log(dt_max)))
    return dt + jnp.log(-jnp.expm1(-dt))


def bounded_forget(
    logits: Float[Array, "B T E"], lower_bound: Float[Array, " E"]
) -> tuple[Float[Array, "B T E"], Float[Array, "B T E"]]:
    """Return log f and 1 - f of the gate f = b + (1 - b) sigmoid(logits), b = sigmoid(lower_bound), in float32.

    The gate is HGRN's (arXiv 2311.04823). 1 - f is computed as (1 - b) sigmoid(-logits): exact to rounding near f = 1.
    """
    logits, bound = upcast(logits), upcast(lower_bound)[None, None]
    log_f = jnp.logaddexp(jax.nn.log_sigmoid(bound), jax.nn.log_sigmoid(-bound) + jax.nn.log_sigmoid(logits))
    return log_f, jax.nn.sigmoid(-bound) * jax.nn.sigmoid(-logits)


def rising_bound(key: jax.Array, shape: tuple[int], dtype: Dtype = jnp.float32, *, depth: Scalar) -> Float[Array, " E"]:
    """Initialise lower_bound with b = depth, the fraction of layers below, as HGRN's cumulative softmax starts."""
    del key
    # The first layer's bound is 0 in the paper; at 0 it could not be learned.
    depth = jnp.maximum(jnp.asarray(depth, dtype), 1e-3)
    return jnp.full(shape, jnp.log(depth) - jnp.log1p(-depth))
