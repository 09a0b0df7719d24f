"""Provide dropout and layer drop, which act only where the caller passes the rng stream "dropout".

    model.apply(params, tokens)                              evaluation and generation: nothing is dropped
    model.apply(params, tokens, rngs={"dropout": key})       training

The masks are functions of the key and of the shapes alone, so they are the same on every mesh.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from recurrax.layers import Depth
from recurrax.types import Scalar


def drop(key: PRNGKeyArray, x: Float[Array, "B T D"], rate: Scalar, shape: tuple[int, ...]) -> Float[Array, "B T D"]:
    """Return x / (1 - rate) with entries set to 0 with probability `rate`; a mask of this shape is broadcast.

    Dropout (Srivastava et al., 2014) has the shape of x; layer drop has (B, 1, 1), one decision for each sequence.
    """
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def layer_drop_rate(rate: float, depth: Depth) -> Scalar:
    """Return the rate of a block: it rises linearly from 0 in the first block to `rate` in the last.

    Stochastic depth (Huang et al., 2016, arXiv 1603.09382), which a model of one block does not have.
    """
    return rate * depth.index / max(depth.count - 1, 1)
