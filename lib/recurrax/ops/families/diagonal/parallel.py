"""Provide scans that process many time steps at once, for devices where a step costs a kernel launch.

Both forms divide time into chunks and process all chunks in parallel:

1. compute every chunk's product of decay factors P and its final state F from zero (C steps, nothing written);
2. compute the state at the start of each chunk, from S <- P * S + F;
3. run every chunk again from that state and write h (C steps).

Reading the inputs twice is cheaper than storing h and the running products and correcting them afterwards, and stores
nothing of size T between the passes. The forms differ in step 2. P and F are double words: a rounded product of decay
factors would enter the state once per chunk, always with the same error if a does not depend on time.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.families.diagonal.double_word import DoubleWord, forgotten, from_array, multiply_add


def chunked(a, x, h0, reset, *, reverse=False, chunk_size=None):
    """Scan with a sequential step 2: 2 C + T/C steps in all, fewest with chunks of sqrt(T / 2)."""
    size = chunk_size or 2 ** round(math.log2(x.shape[1]) / 2)
    return _scan(a, x, h0, reset, reverse, size, _one_after_the_other)


def associative(a, x, h0, reset, *, reverse=False, chunk_size=None):
    """Scan with step 2 by the associative product (P2, F2) o (P1, F1) = (P2 P1, P2 F1 + F2): 2 C + log2(T/C) steps.

    The doublings read every chunk's summary log2(T/C) times, which is cheap for chunks of 16 compared to reading a and
    x.
    """
    return _scan(a, x, h0, reset, reverse, chunk_size or 16, _by_doubling)


def _scan(a, x, h0, reset, reverse, size, enter):
    """Return h and the last state for a, x (B, T, N), h0 (B, N), reset (B, T) or None; `enter` is step 2."""
    batch, length, width = x.shape
    size = min(size, length)
    count = math.ceil(length / size)
    padding = ((0, 0), (0, count * size - length), (0, 0))
    # Padding with a = 1, x = 0 leaves the state unchanged, in both directions.
    a = jnp.pad(a, padding, constant_values=1).reshape(batch, count, size, width)
    x = jnp.pad(x, padding).reshape(batch, count, size, width)
    reset = None if reset is None else jnp.pad(reset, padding[:2]).reshape(batch, count, size)
    cut = None if reset is None else reset.any(2)

    def position(i):
        return size - 1 - i if reverse else i

    def at(array, i):
        return DoubleWord(lax.dynamic_index_in_dim(array, position(i), axis=2, keepdims=False))

    def kept(h, i):
        return h if reset is None else forgotten(h, lax.dynamic_index_in_dim(reset, position(i), 2, keepdims=False))

    def summarise(i, carry):
        product, final = (kept(h, i) for h in carry)
        return multiply_add(at(a, i), product), multiply_add(at(a, i), final, at(x, i))

    zero = from_array(jnp.zeros((batch, count, width), x.dtype))
    one = from_array(jnp.ones((batch, count, width), x.dtype))
    product, final = lax.fori_loop(0, size, summarise, (one, zero))
    entry, last = enter(product, final, cut, from_array(h0), reverse)

    def write(i, carry):
        h, out = carry
        h = multiply_add(at(a, i), kept(h, i), at(x, i))
        return h, lax.dynamic_update_index_in_dim(out, h.high, position(i), axis=2)

    _, h = lax.fori_loop(0, size, write, (entry, lax.empty(x.shape, x.dtype)))
    return h.reshape(batch, count * size, width)[:, :length], last.high


def _one_after_the_other(product, final, cut, h0, reverse):
    def step(state, summary):
        product, final, cut = summary
        return multiply_add(product, forgotten(state, cut), final), state

    chunks_first = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (product, final, cut))
    last, entry = lax.scan(step, h0, chunks_first, reverse=reverse)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), entry), last


def _by_doubling(product, final, cut, h0, reverse):
    """Run step 2 by doubling: after level l every chunk's summary covers the 2^l chunks up to it.

    h0 is treated as a chunk before the first. `cut` marks the chunks in which a document starts: their summaries do not
    depend on earlier chunks.
    """
    count = final.high.shape[1]

    def before(head, leaf):
        leaf = jnp.flip(leaf, 1) if reverse else leaf
        return jnp.concatenate([head[:, None], leaf], axis=1)

    final = jax.tree.map(before, h0, final)
    product = jax.tree.map(before, from_array(jnp.ones_like(h0.high)), product)
    cut = None if cut is None else before(jnp.zeros_like(cut[:, 0]), cut)

    identity = DoubleWord(1, None if product.low is None else 0)

    def earlier(summary, fill, distance):
        """Return the summary `distance` chunks earlier; the identity, 1 and 0, before the first."""
        padding = ((0, 0), (count + 1, 0), *((0, 0),) * (summary.ndim - 2))
        padded = jnp.pad(summary, padding, constant_values=fill)
        return lax.dynamic_slice_in_dim(padded, count + 1 - distance, count + 1, axis=1)

    def double(level, carry):
        product, final, cut = carry
        distance = 2**level
        product_before = jax.tree.map(lambda leaf, fill: earlier(leaf, fill, distance), product, identity)
        final_before = jax.tree.map(lambda leaf: earlier(leaf, 0, distance), final)
        product_before, final_before = forgotten(product_before, cut), forgotten(final_before, cut)
        cut = None if cut is None else cut | earlier(cut, False, distance)
        return multiply_add(product, product_before), multiply_add(product, final_before, final), cut

    _, states, _ = lax.fori_loop(0, math.ceil(math.log2(count + 1)), double, (product, final, cut))
    entry = jax.tree.map(lambda leaf: jnp.flip(leaf[:, :-1], 1) if reverse else leaf[:, :-1], states)
    return entry, jax.tree.map(lambda leaf: leaf[:, -1], states)
