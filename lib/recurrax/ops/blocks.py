"""Run a chunked form along a sequence: a loop over blocks of time, whose chunks are computed side by side.

    time    | block                      | block                      | ...      sequential, a state between blocks
            | chunk | chunk | chunk | .. | chunk | chunk | chunk | .. |          matrix products over all chunks at once

A family of ops provides one function, from the state and a block's slice of the inputs to the state and the output.
`sweep` runs it along the sequence with `time_loop`, whose backward pass recomputes one block at a time. With blocks of
L tokens, chunks of C tokens and R rows per token (L R = 256 on a CPU), forward and backward together store, besides
arguments and results, at most

    B H [ T (3 R (K + V) + K V / L)  +  16 (L R (K + V + R C) + K V L / C) ]    numbers:

one or two copies of inputs and outputs, one state per block, and one block's workspace, but nothing of size T K V or
T T.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from recurrax.ops import containment
from recurrax.ops.time_loop import Split, time_loop

# Rows per block: tokens times steps per token. On a CPU a block's arrays should fit in the cache; a GPU or TPU needs
# few, large launches.
BLOCK = {"cpu": 256, "default": 2048}


class Tokens(NamedTuple):
    """The inputs of an op, by token."""

    q: Float[Array, "B T Hq K"]
    written: tuple[Float[Array, "B T *RH K"], ...]
    """Inputs that update the state, such as keys and values; an axis of R steps may precede the heads."""
    strength: Float[Array, "B T *RH"] | None
    """One number for each head and step, such as beta."""
    log_decay: Float[Array, "B T H 1"] | Float[Array, "B T H K"] | None


def sweep(
    block: Callable,
    chunk_size: int,
    state: Float[Array, "B H K V"],
    tokens: Tokens,
    reset: Bool[Array, "B T"] | None,
    rows: int = 1,
) -> tuple[Float[Array, "B T Hq V"], Float[Array, "B H K V"]]:
    """Run `block(chunks, state, tokens, reset) -> (state, output)` along time; return the output and the last state.

    Args:
      block: the form of one block. It receives finite numbers only: `containment` confines the effect of the others to
        their document and to later tokens.
      chunk_size: tokens per chunk, rounded up to a power of two; fewer if the sequence is shorter. The last chunks are
        padded with zeros, which must not change the state.
      state: the state before the first token.
      tokens: the inputs.
      reset: True where a document starts.
      rows: matrix rows per token; more of them make blocks of fewer tokens.
    """
    length = tokens.q.shape[1]
    chunk_size = min(_power_of_two(chunk_size), _power_of_two(length))

    def split(platform):
        chunks = -(-length // chunk_size)
        most = max(1, BLOCK.get(platform, BLOCK["default"]) // (chunk_size * rows))
        blocks = -(-chunks // most)
        return Split(blocks, -(-chunks // blocks) * chunk_size)  # the last block has as many chunks as the others

    return time_loop(functools.partial(_contained, block, chunk_size), split, (), state, tokens, reset)


def _contained(block, chunk_size, shared, state, tokens, reset):
    """Run the block on finite numbers, and return NaN in everything that depends on other numbers."""
    del shared
    chunks = tokens.q.shape[1] // chunk_size
    reset, document = (None, None) if reset is None else reset
    if document is not None:  # counted from the document that the state belongs to
        document = document - document[:, :1] + reset[:, :1].astype(document.dtype)
    q, own = containment.admit(tokens.q, 3)
    state, start = containment.admit(state, 2)
    lead = tokens.written[0].ndim - 1  # a flag for each step of a token, then their sum
    written, flags = zip(*(containment.admit(x, lead) for x in tokens.written), strict=True)
    strength, log_decay = tokens.strength, tokens.log_decay
    if strength is not None:
        strength, flag = containment.admit(strength, lead)
        flags = (*flags, flag)
    seen = sum(flags) if lead == 3 else sum(flags).sum(2)
    if log_decay is not None:
        log_decay, flag = containment.admit(log_decay, 3, log=True)
        seen = seen + flag
    seen = containment.since_reset(seen, start, document, chunks)
    state, output = block(chunks, state, Tokens(q, written, strength, log_decay), reset)
    read = jnp.repeat(seen, q.shape[2] // seen.shape[2], axis=2)
    return containment.release(state, seen[:, -1]), containment.release(output, read, own)


def _power_of_two(number):
    """Return the smallest power of two that is at least the number."""
    return 1 << (number - 1).bit_length()


def exactness(dtype):
    """Return the precision of matrix products: the highest for float32 and float64 inputs, the default for half."""
    return lax.Precision.HIGHEST if jnp.finfo(dtype).bits >= 32 else lax.Precision.DEFAULT


def to_chunks(x, chunks):
    """Reshape (B, chunks C, H, R, D) to (chunks, B H, C R, D): R rows per token, in the order of time."""
    batch, length, heads, rows, dim = x.shape
    x = x.reshape(batch, chunks, length // chunks, heads, rows, dim).transpose(1, 0, 3, 2, 4, 5)
    return x.reshape(chunks, batch * heads, length // chunks * rows, dim)


def queries_to_chunks(q, heads, chunks):
    """Reshape queries (B, chunks C, Hq, K) to (chunks, B H, C Hq / H, K), grouped by their state."""
    return to_chunks(q.reshape(*q.shape[:2], heads, -1, q.shape[3]), chunks)


def from_chunks(x, batch, rows):
    """Reshape (chunks, B H, C R, D) to (B, chunks C, H R, D)."""
    chunks, heads, length, dim = x.shape
    x = x.reshape(chunks, batch, heads // batch, length // rows, rows, dim).transpose(1, 0, 3, 2, 4, 5)
    return x.reshape(batch, chunks * length // rows, heads // batch * rows, dim)


def interleave(tokens, *parts):
    """Join arrays (..., tokens R, D) token by token: the rows of all parts for the first token, for the second, ..."""
    by_token = [x.reshape(*x.shape[:-2], tokens, -1, x.shape[-1]) for x in parts]
    joined = jnp.concatenate(by_token, axis=-2)
    return joined.reshape(*joined.shape[:-3], -1, joined.shape[-1])


def separate(tokens, x, *rows):
    """Split an interleaved x into its parts, which have `rows` rows per token each."""
    by_token = x.reshape(*x.shape[:-2], tokens, -1, x.shape[-1])
    ends = [sum(rows[: i + 1]) for i in range(len(rows))]
    parts = [by_token[..., end - count : end, :] for count, end in zip(rows, ends, strict=True)]
    return [part.reshape(*x.shape[:-2], -1, x.shape[-1]) for part in parts]
