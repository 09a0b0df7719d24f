"""Draw random inputs for tests, accuracy tables and benchmarks of ops. `Samplers` are what those vary."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recurrax.types import ArrayLike

Sampler = Callable[[np.random.Generator, tuple[int, ...]], ArrayLike]


def mild(rng: np.random.Generator, shape: tuple[int, ...]) -> ArrayLike:
    """Draw log-decays around -0.1 per step."""
    return -0.1 * np.exp(rng.standard_normal(shape))


def unit(rng: np.random.Generator, shape: tuple[int, ...]) -> ArrayLike:
    """Draw vectors of length 1 along the last axis, as layers normalise their keys."""
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def fraction(rng: np.random.Generator, shape: tuple[int, ...]) -> ArrayLike:
    """Draw uniform numbers in [0, 1)."""
    return rng.uniform(size=shape)


class Samplers(NamedTuple):
    """Functions (rng, shape) -> array that draw what decides about the accuracy of an op."""

    log_decay: Sampler = mild
    key: Sampler = unit
    strength: Sampler = fraction


def normal(rng: np.random.Generator, *shape: int, complex: bool = False) -> ArrayLike:
    """Draw standard normal numbers, complex ones with independent real and imaginary parts."""
    real = rng.standard_normal(shape)
    return real + 1j * rng.standard_normal(shape) if complex else real
