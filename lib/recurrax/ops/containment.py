"""Confine the effect of a number that is not finite to its document and to later tokens.

The step-by-step definitions of the ops are causal for every input: a NaN or an infinity at step s changes the outputs
at s and after it, up to the next reset. A matrix product over time is not: it multiplies what a mask excludes by zero,
and 0 * inf is NaN. So before such a product each array is cleaned and its bad entries are counted,

    clean, flags = admit(x, lead)         x with zeros where a row is not finite; flags are 1 there
    seen         = a linear function of the flags: for each output the number of flags that it depends on
    y            = release(f(clean), seen)    NaN where something is seen

and the product f runs on finite numbers alone. Nothing is repaired: an output that depends on such a number is NaN.
Cotangents are treated alike in the backward pass. `release` cleans those that are not finite and passes their flags
through the transpose of the linear function, and `admit` sets the gradients that they reach to NaN.

A flag stands for a token and a head: one bad entry of a key or a value makes all value channels of its head NaN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from recurrax.ops.differentiation import custom_vjp

FLAG = jnp.float32
"""The dtype of flags: linear functions of them are computed and transposed."""

TINY = 2.0**-100
"""A factor with which no finite number overflows in a sum over channels, and which is not 0 in bfloat16."""


def admit(x: Inexact[Array, "..."], lead: int, *, log: bool = False):
    """Return x with zeros where it is not finite, and flags (float) of the shape of its first axes.

    Args:
      x: an array of at least `lead` axes.
      lead: number of leading axes that have one flag per index; one bad entry along the other axes zeroes all of them.
      log: whether x is a logarithm, for which -inf is a valid value.
    """
    bad = ~(x < jnp.inf) if log else ~jnp.isfinite(x)
    bad = bad.any(range(lead, x.ndim)) if x.ndim > lead else bad
    return _admit(x, jax.lax.stop_gradient(bad.astype(FLAG)))


def flags(*arrays: Inexact[Array, "B T H _"], log: Inexact[Array, "B T H _"] | None = None) -> Float[Array, "B T H"]:
    """Return for each token and head in how many arrays a number is not finite; `log` is one more, of logarithms.

    A product with tiny factors is finite where its inputs are, and a TPU tests few sums faster than all numbers.
    """
    arrays = (*arrays, *(() if log is None else (jnp.maximum(log, -1),)))  # -inf is a valid logarithm
    return sum((~jnp.isfinite(_of_heads(x, TINY))).astype(FLAG) for x in arrays)


def _of_heads(x, factor):
    """Return sums of factor * x over the channels of each head; a TPU is slow to sum within (B, T, H K)."""
    of_head = jnp.repeat(jnp.eye(x.shape[2], dtype=jnp.bfloat16), x.shape[3], axis=1)
    return jnp.matmul(x.reshape(*x.shape[:2], -1), factor * of_head.T, preferred_element_type=FLAG)


def returned(dy: Float[Array, "B T H V"], hidden: Float[Array, "B T H"]):
    """Return the cotangents of `seen` and `own` in `release`, for a kernel that writes NaN itself where any is above 0.

    Args:
      dy: the cotangent of the outputs.
      hidden: seen + own.
    """
    bad = flags(dy) > 0
    used = _of_heads((dy != 0).astype(jnp.bfloat16), 1) > 0
    return bad.astype(FLAG), (bad | ((hidden > 0) & used)).astype(FLAG)


@custom_vjp
def _admit(x, flags):
    return cleaned(x, flags > 0), flags


def _admit_back(_, cotangents):
    dx, reached = cotangents
    return spoilt(dx, reached > 0), jnp.zeros_like(reached)


_admit.defvjp(lambda x, flags: (_admit(x, flags), None), _admit_back)


def cleaned(x, bad):
    """Return x, and 0 wherever `bad`, which has the first axes of x, is true."""
    return jnp.where(_as_rows(bad, x), jnp.zeros((), x.dtype), x)


def spoilt(x, bad):
    """Return x, and NaN wherever `bad`, which has the first axes of x, is true.

    The NaN is the root of -1. As a constant of the program it would stop every run with `jax_debug_nans`.
    """
    return x + _as_rows(spoil(bad), x).astype(x.dtype)


def spoil(bad):
    """Return NaN where `bad` is true and 0 elsewhere, to be added."""
    return jnp.sqrt(-jax.lax.stop_gradient(bad.astype(FLAG)))


def _as_rows(flags, x):
    return flags.reshape(*flags.shape, *(1,) * (x.ndim - flags.ndim))


@custom_vjp
def release(y: Inexact[Array, "..."], seen: Float[Array, "*lead"], own: Float[Array, "*lead"] | None = None):
    """Return y, and NaN where `seen` or `own` is above 0.

    `own` counts the flags of an input that affects only this position, a query. Its cotangent also flags outputs that
    are NaN and have a cotangent that is not zero: such a loss is NaN, and a gradient has to show it.
    """
    bad = seen > 0 if own is None else seen + own > 0
    return spoilt(y, bad)


def _release(y, seen, own):
    return release(y, seen, own), (seen, own)


def _release_back(saved, dy):
    seen, own = saved
    bad = ~jnp.isfinite(dy).all(range(seen.ndim, dy.ndim))
    clean = cleaned(dy, bad)
    if own is None:
        return clean, bad.astype(FLAG), None
    lost = (seen + own > 0) & (dy != 0).any(range(seen.ndim, dy.ndim))
    return clean, bad.astype(FLAG), (bad | lost).astype(FLAG)


release.defvjp(_release, _release_back)


def since_reset(
    flags: Float[Array, "B T H"], start: Float[Array, "B H"], document: Int[Array, "B T"] | None, chunks: int
) -> Float[Array, "B T H"]:
    """Return the number of flags since the document's start, this token's included; linear in flags and start.

    Args:
      flags: of each token.
      start: of the state before the first token.
      document: numbers of the documents, 0 for the one that the state belongs to; None: there is no other.
      chunks: into which T is cut: sums are taken within chunks, then over them.
    """
    batch, length, heads = flags.shape
    size = length // chunks
    document = jnp.zeros((1, length), jnp.int32) if document is None else document
    number = document.reshape(-1, chunks, size)
    same = (number[..., :, None] == number[..., None, :]) & jnp.tri(size, dtype=bool)[None, None]
    within = jnp.matmul(same.astype(FLAG), flags.reshape(batch, chunks, size, heads))
    # Of an earlier chunk only its last document can go on.
    chunk = jnp.arange(length) // size
    goes_on = document[:, :, None] == number[:, None, :, -1]
    goes_on &= (chunk[:, None] > jnp.arange(chunks)[None])[None]
    earlier = jnp.matmul(goes_on.astype(FLAG), within[:, :, -1])
    return within.reshape(flags.shape) + earlier + (document == 0).astype(FLAG)[..., None] * start[:, None]
