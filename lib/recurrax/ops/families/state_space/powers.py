"""Compute powers of a time-invariant transition, their products with inputs b and outputs c, and the kernel c A^t b.

A diagonal A is passed as its logarithm: its powers are exponentials, and no rounding error is raised to a power. A
dense A is passed as A - I, and so are its powers, (I + E)^2 - I = 2 E + E^2: a mode that decays by 1e-3 per step has
three more decimal digits than in A. Powers of NumPy arrays are computed by NumPy in float64, as constants of the
program.
"""

from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from recurrax.types import ArrayLike, Dtype


class Powers:
    """Powers of A. A diagonal A is passed as log A (D, N), a dense A as A - I (D, N, N). Squares are computed once."""

    def __init__(self, a: Inexact[ArrayLike, "D N"] | Float[ArrayLike, "D N N"]):
        self.is_diagonal = a.ndim == 2
        self._squares = [a]

    def square(self, times: int) -> Inexact[ArrayLike, "D N"] | Float[ArrayLike, "D N N"]:
        """Return A^(2^times), in the form in which A is passed."""
        if self.is_diagonal:
            return 2**times * self._squares[0]
        while len(self._squares) <= times:
            last = self._squares[-1]
            self._squares.append(2 * last + product(last, last))
        return self._squares[times]

    def power(self, count: int) -> Inexact[ArrayLike, "D N"] | Float[ArrayLike, "D N N"]:
        """Return A^count for count >= 1, in the form in which A is passed."""
        if self.is_diagonal:
            return count * self._squares[0]
        found = None
        for times in range(count.bit_length()):
            if count >> times & 1:
                square = self.square(times)
                found = square if found is None else found + square + product(found, square)
        return found


class System(NamedTuple):
    """a, b and c of `state_space` in one dtype, all real or all complex."""

    a: Powers
    b: Inexact[ArrayLike, "D N"]
    c: Inexact[ArrayLike, "D M N"]
    numpy: ModuleType
    """The module that computes the powers: NumPy for constants, otherwise jax.numpy."""

    @property
    def is_complex(self) -> bool:
        return jnp.iscomplexobj(self.b)


def system(a: ArrayLike, b: ArrayLike, c: ArrayLike, dtype: Dtype) -> System:
    """Return the system in float64 if all are NumPy arrays, else in the real `dtype`; complex if one of them is."""
    constant = all(isinstance(value, np.ndarray) for value in (a, b, c))
    xp, dtype = (np, np.float64) if constant else (jnp, dtype)
    if any(jnp.iscomplexobj(value) for value in (a, b, c)):
        dtype = np.promote_types(dtype, np.complex64)
    a, b, c = (xp.asarray(value, dtype) for value in (a, b, c))
    return System(Powers(a), b, c, xp)


def columns(system: System, count: int) -> Inexact[ArrayLike, "D N C"]:
    """Return A^k b for k < count, a power of two."""
    a, b, _, xp = system
    if a.is_diagonal:
        return b[..., None] * _table(system, 1, count)
    found = b[..., None]
    for times in range((count - 1).bit_length()):
        found = xp.concatenate([found, found + product(a.square(times), found)], 2)
    return found


def rows(system: System, first: int, step: int, count: int) -> Inexact[ArrayLike, "D C M N"]:
    """Return c A^(first + k step) for k < count; step is a power of two."""
    a, _, c, xp = system
    if a.is_diagonal:
        start = c * xp.exp(a.power(first))[:, None] if first else c
        return start[:, None] * xp.moveaxis(_table(system, step, count), 2, 1)[:, :, None]
    found = c + product(c, a.power(first)) if first else c
    for times in range((count - 1).bit_length()):
        found = xp.concatenate([found, found + product(found, a.square(times + step.bit_length() - 1))], 1)
    return found.reshape(c.shape[0], -1, *c.shape[1:])[:, :count]


def _table(system, step, count):
    """Return A^(k step) for k < count of a diagonal A, (D, N, C); step is a power of two.

    By doubling: 2^i log A is exact in floating point. k log A would be rounded, and an undamped phase of ten thousand
    radians off by 1e-3.
    """
    xp, log_a = system.numpy, system.a.square(0)
    found = xp.ones((*log_a.shape, 1), log_a.dtype)
    while (size := found.shape[-1]) < count:
        found = xp.concatenate([found, found * xp.exp(size * step * log_a)[..., None]], -1)
    return found[..., :count]


def kernel(system: System, count: int, size: int) -> Float[ArrayLike, "D M T"]:
    """Return Re(c A^t b) for t < count: rows of every `size`-th power times `size` columns, a power of two."""
    late, early = real_rows(rows(system, 0, size, -(-count // size))), real_columns(columns(system, size))
    dim, blocks, outputs, _ = late.shape
    taps = product(late.reshape(dim, blocks * outputs, -1), early).reshape(dim, blocks, outputs, size)
    return taps.swapaxes(1, 2).reshape(dim, outputs, -1)[..., :count]


def real_columns(columns: Inexact[ArrayLike, "D N C"]) -> Float[ArrayLike, "D R C"]:
    """Return complex columns as real parts followed by imaginary parts, R = 2 N; real ones unchanged."""
    return _split(columns, 1)


def real_rows(rows: Inexact[ArrayLike, "D C M N"]) -> Float[ArrayLike, "D C M R"]:
    """Return rows as real parts followed by negative imaginary parts: times a split column they give Re(row column)."""
    return _split(rows.conj(), 3)


def real_state(state: Inexact[Array, "*batch N"]) -> Float[Array, "*batch R"]:
    """Return a state split like a column."""
    return _split(state, -1)


def complex_state(state: Float[Array, "*batch R"]) -> Inexact[Array, "*batch N"]:
    """Return the complex state from its split form, the inverse of `real_state`."""
    return lax.complex(*jnp.split(state, 2, -1))


def _split(value, axis):
    xp = np if isinstance(value, np.ndarray) else jnp
    return xp.concatenate([value.real, value.imag], axis) if xp.iscomplexobj(value) else value


def product(x: ArrayLike, y: ArrayLike) -> ArrayLike:
    """Return the matrix product at full precision: with rounded factors a power would be wrong in the third digit."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return x @ y
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
