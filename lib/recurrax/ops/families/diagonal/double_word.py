"""Provide a multiply-add that carries its rounding error along, in a state that is an unevaluated sum high + low.

A scan rounds its state once per step. If |a| is near 1 those errors do not decay, and after T steps they have grown to
about sqrt(T) half-ulps: 1.5e-6 of a complex64 state at T = 4096, and far more in products of many decay factors (a^T in
an associative scan: 3e-5). Storing each rounding error in a second float keeps the state within one ulp at any T, on
every device, without float64.

It uses two classical algorithms (Dekker 1971, Knuth TAOCP 4.2.2), neither of which needs a fused multiply-add:
`two_sum` returns a + b and its exact rounding error; `split` divides a 24-bit significand into two 12-bit halves, whose
products are exact. float64 is precise enough here and is computed directly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Complex(NamedTuple):
    """A complex number of two arrays, where complex arrays do not exist: in a kernel."""

    real: jax.Array
    imag: jax.Array


class DoubleWord(NamedTuple):
    """The number high + low, |low| <= ulp(high) / 2. low is None if it is zero or, for float64, not stored."""

    high: jax.Array | Complex
    low: jax.Array | Complex | None = None


def two_sum(a, b):
    """Return (s, e) with s = round(a + b) and s + e = a + b exactly."""
    s = a + b
    b_rounded = s - a
    return s, (a - (s - b_rounded)) + (b - b_rounded)


def split(a):
    """Return (the upper 12 bits of a's significand, the rest), whose sum is a exactly."""
    bits = lax.bitcast_convert_type(a, jnp.uint32) & jnp.uint32(0xFFFFF000)
    upper = lax.bitcast_convert_type(bits, jnp.float32)
    return upper, a - upper


def _sum(terms, small):
    """Return the double word nearest to sum(terms) + small; `small` has the size of the terms' rounding errors."""
    total = terms[0]
    for term in terms[1:]:
        total, error = two_sum(total, term)
        small = small + error
    high = total + small
    return DoubleWord(high, small - (high - total))


def multiply_add(a: DoubleWord, h: DoubleWord, x: DoubleWord | None = None) -> DoubleWord:
    """Return a * h + x with about twice the precision of float32 or complex64, or at the precision of a double dtype.

    All have one dtype and shape; h has both words (`from_array`), a and x may lack the low one.
    """
    if _is_double(a.high):
        product = a.high * h.high
        return DoubleWord(product if x is None else product + x.high)
    small = times(a.high, h.low)
    if a.low is not None:
        small = _plus(small, times(a.low, h.high))
    if x is not None and x.low is not None:
        small = _plus(small, x.low)
    if not _is_complex(a.high):
        (a1, a2), (h1, h2) = split(a.high), split(h.high)
        terms = [a1 * h1] + ([] if x is None else [x.high])
        return _sum(terms, (a1 * h2 + a2 * h.high) + small)
    (a1, a2), (b1, b2) = split(a.high.real), split(a.high.imag)
    (h1, h2), (k1, k2) = split(h.high.real), split(h.high.imag)
    re, im = h.high.real, h.high.imag
    real_terms, imag_terms = [a1 * h1, -(b1 * k1)], [a1 * k1, b1 * h1]
    if x is not None:
        real_terms, imag_terms = [*real_terms, x.high.real], [*imag_terms, x.high.imag]
    real = _sum(real_terms, ((a1 * h2 + a2 * re) - (b1 * k2 + b2 * im)) + small.real)
    imag = _sum(imag_terms, ((a1 * k2 + a2 * im) + (b1 * h2 + b2 * re)) + small.imag)
    return _joined(real, imag, h)


def add(h: DoubleWord, x: jax.Array | Complex) -> DoubleWord:
    """Return h + x for h with both words, in float32 or complex64."""
    if not _is_complex(x):
        return _sum([h.high, x], h.low)
    return _joined(_sum([h.high.real, x.real], h.low.real), _sum([h.high.imag, x.imag], h.low.imag), h)


def times(a: jax.Array | Complex, b: jax.Array | Complex) -> jax.Array | Complex:
    """Return a * b, rounded."""
    if not isinstance(a, Complex):
        return a * b
    return Complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def from_array(h: jax.Array | Complex) -> DoubleWord:
    """Return h as a double word with the structure that `multiply_add` returns, so that it can start a loop."""
    return DoubleWord(h, None if _is_double(h) else jax.tree.map(jnp.zeros_like, h))


def forgotten(h: DoubleWord, reset: jax.Array | None) -> DoubleWord:
    """Return h (..., N), and 0 where reset (...) is true, by a select, because 0 * NaN would be NaN."""
    if reset is None:
        return h
    return jax.tree.map(lambda word: jnp.where(reset[..., None], jnp.zeros((), word.dtype), word), h)


def _is_double(h):
    return not isinstance(h, Complex) and h.dtype in (jnp.float64, jnp.complex128)


def _is_complex(h):
    return isinstance(h, Complex) or jnp.iscomplexobj(h)


def _plus(a, b):
    return jax.tree.map(jnp.add, a, b)


def _joined(real, imag, like):
    """Return the complex number of two double words, in the form of another one."""
    join = Complex if isinstance(like.high, Complex) else lax.complex
    return DoubleWord(join(real.high, imag.high), join(real.low, imag.low))
