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
from jaxtyping import Array, Bool, Float, Inexact

from recurrax.ops.forward_mode import custom_vjp

FLAG = jnp.float32
"""The dtype of flags: linear functions of them are computed and transposed."""


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


@custom_vjp
def _admit(x, flags):
    return _cleaned(x, flags > 0), flags


def _admit_back(_, cotangents):
    dx, reached = cotangents
    return _spoilt(dx, reached > 0), jnp.zeros_like(reached)


_admit.defvjp(lambda x, flags: (_admit(x, flags), None), _admit_back)


def _cleaned(x, bad):
    """Return x, and 0 wherever `bad`, which has the first axes of x, is true."""
    return jnp.where(_as_rows(bad, x), jnp.zeros((), x.dtype), x)


def _spoilt(x, bad):
    """Return x, and NaN wherever `bad`, which has the first axes of x, is true.

    The NaN is the root of -1. As a constant of the program it would stop every run with `jax_debug_nans`.
    """
    return x + _as_rows(jnp.sqrt(-jax.lax.stop_gradient(bad.astype(FLAG))), x).astype(x.dtype)


def _as_rows(flags, x):
    return flags.reshape(*flags.shape, *(1,) * (x.ndim - flags.ndim))


@custom_vjp
def release(y: Inexact[Array, "..."], seen: Float[Array, "*lead"], own: Float[Array, "*lead"] | None = None):
    """Return y, and NaN where `seen` or `own` is above 0.

    `own` counts the flags of an input that affects only this position, a query. Its cotangent also flags outputs that
    are NaN and have a cotangent that is not zero: such a loss is NaN, and a gradient has to show it.
    """
    bad = seen > 0 if own is None else seen + own > 0
    return _spoilt(y, bad)


def _release(y, seen, own):
    return release(y, seen, own), (seen, own)


def _release_back(saved, dy):
    seen, own = saved
    bad = ~jnp.isfinite(dy).all(range(seen.ndim, dy.ndim))
    clean = _cleaned(dy, bad)
    if own is None:
        return clean, bad.astype(FLAG), None
    lost = (seen + own > 0) & (dy != 0).any(range(seen.ndim, dy.ndim))
    return clean, bad.astype(FLAG), (bad | lost).astype(FLAG)


release.defvjp(_release, _release_back)


def since_reset(
    flags: Float[Array, "B T H"], start: Float[Array, "B H"], reset: Bool[Array, "B T"] | None, chunks: int
) -> Float[Array, "B T H"]:
    """Return the number of flags since the document's start, this token's included; linear in flags and start.

    Args:
      flags: flags of each token.
      start: flags of the state before the first token.
      reset: True where a document starts.
      chunks: number of chunks that T is divided into; sums run within chunks, then over chunks.
    """
    batch, length, heads = flags.shape
    size = length // chunks
    x = flags.reshape(batch, chunks, size, heads)
    here = jnp.zeros((1, length), bool) if reset is None else reset
    until, before = jnp.tri(size, dtype=FLAG), jnp.tri(chunks, k=-1, dtype=FLAG)
    # Index of each token's document within its chunk, and of each chunk's last document, counted from the first chunk.
    document = jnp.matmul(here.reshape(-1, chunks, size).astype(FLAG), until.T)
    last = jnp.matmul(document[..., -1], jnp.tri(chunks, dtype=FLAG).T)
    same = jnp.where(document[..., :, None] == document[..., None, :], until[None, None], 0)
    within = jnp.matmul(same, x)
    # The end of chunk j is in the document that chunk i starts in, if no document starts in the chunks between them.
    first = jnp.pad(last, ((0, 0), (1, 0)))[:, :-1]
    same = jnp.where(first[:, :, None] == last[:, None, :], before[None], 0)
    entering = jnp.matmul(same, within[:, :, -1]) + (first == 0).astype(FLAG)[..., None] * start[:, None]
    seen = within + (document == 0).astype(FLAG)[..., None] * entering[:, :, None]
    return seen.reshape(batch, length, heads)
