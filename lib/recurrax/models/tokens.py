"""Checks the tokens that models read: an id outside of the vocabulary is an error, or at the least not silent."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from recurrax import checks
from recurrax.types import ArrayLike


def indices(tokens: Int[ArrayLike, "B T"], vocab_size: int) -> Int[Array, "B T"]:
    """Return the tokens as indices of an embedding with `vocab_size` rows.

    Outside of a trace the values are known, and an id that is not in 0 ... vocab_size - 1 is refused. Within a trace
    they are not. Then it becomes an index beyond the last row, also if it is negative, which would count from the end:
    `jnp.take` gives NaN there, and the ops keep it to its document and from earlier tokens.

    Raises:
      ValueError: a known id is not in the vocabulary.
    """
    checks.tokens(tokens, vocab_size)
    tokens = jnp.asarray(tokens)
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.int32))  # a uint8 does not hold 256
    return jnp.where(tokens < 0, vocab_size, tokens)
