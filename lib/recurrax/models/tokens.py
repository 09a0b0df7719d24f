"""Check the input tokens of models: an id outside the vocabulary raises an error or, within a trace, gives NaN."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from recurrax import checks
from recurrax.types import ArrayLike


def indices(tokens: Int[ArrayLike, "B T"], vocab_size: int) -> Int[Array, "B T"]:
    """Return the tokens as indices of an embedding with `vocab_size` rows.

    Outside of a trace the values are known, and an id that is not in 0 ... vocab_size - 1 raises an error. Within a
    trace they are not known: such an id becomes an index beyond the last row, also if it is negative, which would count
    from the end. `jnp.take` gives NaN there, and the ops confine the NaN to its document and to later tokens.

    Raises:
      ValueError: a known id is not in the vocabulary.
    """
    checks.tokens(tokens, vocab_size)
    tokens = jnp.asarray(tokens)
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.int32))  # a uint8 does not hold 256
    return jnp.where(tokens < 0, vocab_size, tokens)
