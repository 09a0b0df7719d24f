"""Checks the tokens that models read: an id outside of the vocabulary is an error, or at the least not silent."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recurrax import checks
from recurrax.types import ArrayLike


def split_unknown(tokens: Int[ArrayLike, "B T"], vocab_size: int) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Return tokens that can be looked up, and True up to the first id that is not in 0 ... vocab_size - 1.

    Outside of a trace the values are known, and such an id is refused. Within a trace they are not, and it cannot be:
    token 0 is looked up in its place, because a NaN there would reach earlier positions, where masks multiply it by 0.
    `mark_unknown` then makes the outputs NaN from that position on.

    Raises:
      ValueError: a known id is not in the vocabulary.
    """
    checks.tokens(tokens, vocab_size)
    tokens = jnp.asarray(tokens)
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.int32))  # a uint8 cannot be compared with 256
    known = (tokens >= 0) & (tokens < vocab_size)
    position = jnp.arange(tokens.shape[1])[None]
    first = jnp.min(jnp.where(known, tokens.shape[1], position), axis=1, keepdims=True, initial=tokens.shape[1])
    return jnp.where(known, tokens, 0), position < first


def mark_unknown(x: Float[Array, "B T D"], known: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
    """Return x with NaN from the first unknown token on."""
    return jnp.where(known[..., None], x, jnp.asarray(jnp.nan, x.dtype))
