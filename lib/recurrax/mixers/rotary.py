"""Rotary positions (Su et al., 2021, arXiv 2104.09864): pairs of channels turned by position times a frequency.

The product of a query and a key, each turned by its place, depends on their distance alone. So places may be counted
from the start of the present call: a state of keys is handed on turned back by the length of the call, and angles stay
small, and exact, however long the stream is.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops.dtypes import upcast


def frequencies(size: int, base: float) -> Float[Array, " K"]:
    """base^(-i / size) for the pairs i = 0 .. size - 1."""
    return base ** (-jnp.arange(size, dtype=jnp.float32) / size)


def turn(
    x: Float[Array, "B T H K"], frequency: Float[Array, "*H half"], first_position: int = 0
) -> Float[Array, "B T H K"]:
    """Pairs (i, i + n) of the first 2 n channels turned by position * frequency_i, in float32, for n frequencies.

    Frequencies may differ from head to head. The other channels stay as they are.
    """
    return turn_to(x, first_position + jnp.arange(x.shape[1], dtype=jnp.float32), frequency)


def turn_to(
    x: Float[Array, "B T H K"], position: Float[Array, " T"], frequency: Float[Array, "*H half"]
) -> Float[Array, "B T H K"]:
    """The same for tokens at these positions."""
    angle = (position[:, None, None] * jnp.atleast_2d(upcast(frequency))[None])[None]
    size = 2 * frequency.shape[-1]
    if size == x.shape[-1]:
        return _turned(x, angle)
    return jnp.concatenate([_turned(x[..., :size], angle), x[..., size:]], axis=-1)


def turn_state(
    s: Float[Array, "B H K V"], frequency: Float[Array, "*H half"], positions: int
) -> Float[Array, "B H K V"]:
    """The state whose keys were turned by that many positions more."""
    return _turned(s.swapaxes(2, 3), (positions * jnp.atleast_2d(upcast(frequency)))[None, :, None]).swapaxes(2, 3)


def _turned(x, angle):
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(upcast(x), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)
