"""Loop over blocks of time, with a backward pass that recomputes one block at a time.

    for n in blocks:  state, output[n] = block(shared, state, inputs[n], reset[n])

The forward pass stores its arguments and the state before each block. The backward pass is a second loop, in reverse,
which differentiates one block at a time. How many blocks there are may depend on the platform, and is chosen where the
program runs (`recurrax.ops.platforms`). The stored states have one shape for all platforms that a program may run on,
that of the most blocks: a CPU's small blocks cost an accelerator memory unless the caller says where the program runs.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from recurrax.ops import platforms
from recurrax.ops.differentiation import custom_vjp
from recurrax.types import PyTree


class Split(NamedTuple):
    """How a sequence is cut: the last block is filled up with zeros."""

    blocks: int
    tokens: int
    """Number of tokens of each block."""


class Documents(NamedTuple):
    """Where documents start in a block, (B, T) each."""

    starts: Bool[Array, "B T"]
    document: Array
    """Number of starts so far, counted from the start of the sequence."""


def time_loop(
    block: Callable,
    split: Callable[[str], Split],
    shared: PyTree,
    state: PyTree,
    inputs: PyTree,
    reset: Bool[Array, "B T"] | None,
) -> tuple[Array, PyTree]:
    """Run `block(shared, state, inputs, reset) -> (state, output)` along time; return the outputs and the last state.

    Args:
      block: a hashable function. Inputs of zeros, with which the last block is filled up, must not change the state.
      split: the cut for each platform.
      shared: arrays that all blocks use, such as a parameter.
      state: the state before the first token.
      inputs: arrays (B, T, ...).
      reset: True where a document starts; the block receives `Documents` instead.
    """
    if reset is not None:  # the numbers of all documents at once
        reset = Documents(reset, jnp.cumsum(reset, axis=1, dtype=jnp.int32))
    return _loop(block, tuple(platforms.table(split).items()), shared, state, inputs, reset)


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _loop(block, splits, shared, state, inputs, reset):
    return _forward(block, splits, shared, state, inputs, reset)[0]


def _forward(block, splits, shared, state, inputs, reset):
    most = max(split.blocks for _, split in splits)
    run = functools.partial(_run, block, most)
    results, states = platforms.per_platform(run, dict(splits), shared, state, inputs, reset)
    return results, (shared, states, inputs, reset)


def _backward(block, splits, residuals, cotangents):
    run = functools.partial(_differentiate, block)
    return *platforms.per_platform(run, dict(splits), *residuals, *cotangents), None


_loop.defvjp(_forward, _backward)


def _run(block, most, split, shared, state, inputs, reset):
    """Return (output, last state), and `most` states, of which the first are those before each block."""
    length = _length(inputs)
    inputs, reset = _filled(inputs, split), _continued(reset, split)
    if split.blocks == 1:
        last, output = block(shared, state, inputs, reset)
        return (output[:, :length], last), jax.tree.map(lambda s: _longer(s[None], most), state)

    def step(carry, n):
        state, output = carry
        new, piece = block(shared, state, *_piece((inputs, reset), n, split))
        return (new, _put(output, piece, n)), state

    shape = jax.eval_shape(block, shared, state, *_piece((inputs, reset), 0, split))[1]
    output = jnp.zeros((shape.shape[0], split.blocks * split.tokens, *shape.shape[2:]), shape.dtype)
    (last, output), states = lax.scan(step, (state, output), jnp.arange(split.blocks))
    return (output[:, :length], last), jax.tree.map(lambda s: _longer(s, most), states)


def _differentiate(block, split, shared, states, inputs, reset, output_cotangent, state_cotangent):
    """Return the gradients of shared, state and inputs."""
    length = _length(inputs)
    (inputs, output_cotangent), reset = _filled((inputs, output_cotangent), split), _continued(reset, split)

    def one(state, inputs, reset, output_cotangent, state_cotangent):
        _, pullback = jax.vjp(lambda *arrays: block(*arrays, reset), shared, state, inputs)
        return pullback((state_cotangent, output_cotangent))

    if split.blocks == 1:
        state = jax.tree.map(lambda s: s[0], states)
        of_shared, of_state, of_inputs = one(state, inputs, reset, output_cotangent, state_cotangent)
        return of_shared, of_state, jax.tree.map(lambda x: x[:, :length], of_inputs)

    def step(carry, before):
        of_shared, of_state, gradients = carry
        state, n = before
        pieces = _piece((inputs, reset, output_cotangent), n, split)
        more, of_state, piece = one(state, *pieces, of_state)
        gradients = jax.tree.map(lambda whole, part: _put(whole, part, n), gradients, piece)
        return (jax.tree.map(jnp.add, of_shared, more), of_state, gradients), None

    # All entries are overwritten. No two arrays start equal, because XLA merges arrays of equal constants into one and
    # then copies it for each use, which took a quarter of the time of linear_attention on a CPU.
    leaves, tree = jax.tree.flatten(inputs)
    gradients = tree.unflatten([jnp.full_like(x, i + 1) for i, x in enumerate(leaves)])
    start = jax.tree.map(jnp.zeros_like, shared), state_cotangent, gradients
    before = jax.tree.map(lambda s: s[: split.blocks], states), jnp.arange(split.blocks)
    (of_shared, of_state, gradients), _ = lax.scan(step, start, before, reverse=True)
    return of_shared, of_state, jax.tree.map(lambda x: x[:, :length], gradients)


def _length(inputs):
    return jax.tree.leaves(inputs)[0].shape[1]


def _filled(arrays, split):
    """Pad axis 1 with zeros up to the end of the last block."""
    return jax.tree.map(lambda x: _longer(x, split.blocks * split.tokens, 1), arrays)


def _continued(reset, split):
    """Continue the last document up to the end of the last block."""
    if reset is None:
        return None
    missing = split.blocks * split.tokens - reset.starts.shape[1]
    return Documents(_filled(reset.starts, split), jnp.pad(reset.document, ((0, 0), (0, missing)), mode="edge"))


def _longer(x, size, axis=0):
    """Pad one axis with zeros up to this size."""
    if x.shape[axis] == size:
        return x
    return jnp.pad(x, [(0, size - length if i == axis else 0) for i, length in enumerate(x.shape)])


def _piece(arrays, n, split):
    """Return the n-th block of axis 1."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, n * split.tokens, split.tokens, axis=1), arrays)


def _put(whole, piece, n):
    return lax.dynamic_update_slice_in_dim(whole, piece, n * piece.shape[1], axis=1)
