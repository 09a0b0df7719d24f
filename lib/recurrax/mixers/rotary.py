"""Rotary positions (Su et al., 2021, arXiv 2104.09864): rotate pairs of channels by position times a frequency.

The product of a rotated query and a rotated key depends only on their distance. So positions may be counted from the
start of the current call: a state of keys is rotated back by the length of the call before it is returned, and angles
stay small, and exact, for streams of any length.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops.dtypes import upcast


def frequencies(size: int, base: float) -> Float[Array, " K"]:
    """Return base^(-i / size) for the pairs i = 0 .. size - 1."""
    return base ** (-jnp.arange(size, dtype=jnp.float32) / size)


def turn(
    x: Float[Array, "B T H K"], frequency: Float[Array, "*H half"], first_position: int = 0
) -> Float[Array, "B T H K"]:
    """Rotate the pairs (i, i + n) of the first 2 n channels by position * frequency_i, in float32, for n frequencies.

    Frequencies may differ from head to head. The other channels are unchanged.
    """
    return turn_to(x, first_position + jnp.arange(x.shape[1], dtype=jnp.float32), frequency)


def turn_to(
    x: Float[Array, "B T H K"], position: Float[Array, " T"], frequency: Float[Array, "*H half"]
) -> Float[Array, "B T H K"]:
    """Rotate as `turn` does, with an explicit position for each token."""
    angle = (position[:, None, None] * jnp.atleast_2d(upcast(frequency))[None])[None]
    size = 2 * frequency.shape[-1]
    if size == x.shape[-1]:
        return _turned(x, angle)
    return jnp.concatenate([_turned(x[..., :size], angle), x[..., size:]], axis=-1)


def turn_state(
    s: Float[Array, "B H K V"], frequency: Float[Array, "*H half"], positions: int
) -> Float[Array, "B H K V"]:
    """Return the state with its keys rotated by `positions` further positions."""
    return _turned(s.swapaxes(2, 3), (positions * jnp.atleast_2d(upcast(frequency)))[None, :, None]).swapaxes(2, 3)


def _turned(x, angle):
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(upcast(x), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)
