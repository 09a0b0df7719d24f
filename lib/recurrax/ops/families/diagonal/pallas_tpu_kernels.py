"""Compute one block of time of the scan, or of its gradient, in the memory of a TPU core.

A block has 8 C steps of a few groups of 128 channels. The eight rows of a vector register are eight chunks of C steps:

    step i:    h[i], h[C + i], h[2 C + i], ..., h[7 C + i]        the states of eight chunks at once

1. every chunk's product of decay factors P and its final state F from zero, C steps of all chunks;
2. the state before each chunk, S <- P * S + F, eight times; the last S enters the next block;
3. every chunk again from that state, C steps.

So all rows of the vector unit work, although time is sequential. The states are double words, as in the other forms
(`double_word`); of inputs in half precision, whose rounding is 2^-9 already, they are float32. The gradient runs the
same three parts on e_t = a_t d_t, in the other direction:

    d_t = g_t + e_{t+1},    e_t = a_t d_t,    dx_t = d_t,    da_t = d_t h_{t-1},    dh0 = e_1
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from recurrax.ops.families.diagonal import double_word
from recurrax.ops.families.diagonal.double_word import Complex, DoubleWord
from recurrax.ops.pallas_tpu.kernels import LANES, ROWS


class Tiles(NamedTuple):
    """How a sequence is cut into blocks."""

    length: int
    steps: int
    """C."""
    blocks: int
    groups: int
    """Groups of 128 channels of a block."""
    parts: int
    """1, or 2 of complex numbers."""
    exact: bool
    """Whether states are double words."""

    @property
    def tokens(self) -> int:
        return ROWS * self.steps

    @property
    def width(self) -> int:
        return self.groups * LANES

    @property
    def tail(self) -> int:
        """Tokens of the last block that exist."""
        return self.length - (self.blocks - 1) * self.tokens

    def block(self, reverse: bool):
        """Return the number of the block in the sequence."""
        t = pl.program_id(2)
        return self.blocks - 1 - t if reverse else t

    @property
    def arithmetic(self):
        return double_word if self.exact else _Single


class _Single:
    """The arithmetic of states of one float32, in the place of the module `double_word`."""

    @staticmethod
    def from_array(h):
        return DoubleWord(h)

    @staticmethod
    def add(h, x):
        return DoubleWord(h.high + x)

    @staticmethod
    def multiply_add(a, h, x=None):
        return DoubleWord(a.high * h.high + (0.0 if x is None else x.high))


def forward(*refs, tiles, reverse, copies, has_reset):
    """Read a, x, h0 and resets; write copies of h in several dtypes, and the state after the block."""
    take = _Taker(refs, tiles)
    a, x, h0, reset = take(), take(), take(), take.one() if has_reset else None
    *h, last = (take() for _ in range(copies + 1))
    a_rows, x_rows, high, low = (take.groups() for _ in range(4))
    multiply_add = tiles.arithmetic.multiply_add
    _start(h0, high, low, tiles)
    _copy_in(a, a_rows, tiles, reverse, 1.0)
    _copy_in(x, x_rows, tiles, reverse, 0.0)

    def summarise(j, row, product, final):
        a_t, x_t = (DoubleWord(_row(rows, j, row, tiles)) for rows in (a_rows, x_rows))
        return multiply_add(a_t, product), multiply_add(a_t, final, x_t)

    def write(j, row, state):
        a_t, x_t = (DoubleWord(_row(rows, j, row, tiles)) for rows in (a_rows, x_rows))
        state = multiply_add(a_t, state, x_t)
        _put_row(x_rows, j, row, tiles, state.high)
        return state

    _three_parts(summarise, write, reset, high, low, tiles, reverse, forgets_before=True)
    for copy in h:
        _copy_out(x_rows, copy, tiles)
    _copy_state(high, last, tiles)


def backward(*refs, tiles, reverse, has_reset):
    """Read a, g, h, the states beside the block, h0, g_last and resets; write da, dx and the gradient of the state."""
    take = _Taker(refs, tiles)
    a, g, h, neighbour, h0, g_last = (take() for _ in range(6))
    reset, da, dx, dh0 = take.one() if has_reset else None, take(), take(), take()
    a_rows, g_rows, h_rows, high, low = (take.groups() for _ in range(5))
    add, multiply_add = tiles.arithmetic.add, tiles.arithmetic.multiply_add
    _start(g_last, high, low, tiles)
    _copy_in(a, a_rows, tiles, not reverse, 1.0)
    _copy_in(g, g_rows, tiles, not reverse, 0.0)
    _copy_in(h, h_rows, tiles, not reverse, 0.0)
    _copy_neighbour(neighbour, h0, h_rows, tiles, reverse)

    def summarise(j, row, product, final):
        a_t = DoubleWord(_row(a_rows, j, row, tiles))
        final = add(final, _row(g_rows, j, row, tiles))
        return multiply_add(a_t, product), multiply_add(a_t, final)

    def write(j, row, state):
        d = add(state, _row(g_rows, j, row, tiles))
        state = multiply_add(DoubleWord(_row(a_rows, j, row, tiles)), d)
        da_t = double_word.times(d.high, _row(h_rows, j, row + 1 if reverse else row - 1, tiles))
        _put_row(g_rows, j, row, tiles, d.high)
        _put_row(a_rows, j, row, tiles, _forgotten(da_t, _reset_row(reset, row, tiles)))
        return state

    _three_parts(summarise, write, reset, high, low, tiles, not reverse, forgets_before=False)
    _copy_out(a_rows, da, tiles)
    _copy_out(g_rows, dx, tiles)
    _copy_state(high, dh0, tiles)


def _three_parts(summarise, write, reset, high, low, tiles, reverse, *, forgets_before):
    """Run the three parts on one block. A reset forgets the state before its step, or after it."""
    groups, arithmetic = range(tiles.groups), tiles.arithmetic
    zero = jnp.zeros((ROWS, LANES), jnp.float32)
    zero, one = (zero, zero + 1) if tiles.parts == 1 else (Complex(zero, zero), Complex(zero + 1, zero))

    def stepped(step, j, i, states):
        row = tiles.steps - 1 - i if reverse else i
        resets = _reset_row(reset, row, tiles)
        if forgets_before:
            return step(j, row, *_forgotten(states, resets))
        return _forgotten(step(j, row, *states), resets)

    def first(i, carry):
        summaries, cut = carry
        resets = _reset_row(reset, i, tiles)
        return [stepped(summarise, j, i, summaries[j]) for j in groups], cut if resets is None else cut | resets

    start = [(arithmetic.from_array(one), arithmetic.from_array(zero)) for _ in groups]
    summaries, cut = lax.fori_loop(0, tiles.steps, first, (start, jnp.zeros((ROWS, LANES), jnp.int32)))

    row_number = lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 0)
    entries = []
    for j in groups:
        state = DoubleWord(_number(high, j), _number(low, j) if tiles.exact else None)
        entry = arithmetic.from_array(zero)
        for row in reversed(range(ROWS)) if reverse else range(ROWS):
            here = functools.partial(jnp.where, row_number == row)
            alone = functools.partial(_in_all_rows, row)
            entry = jax.tree.map(here, state, entry)
            product, final = jax.tree.map(alone, summaries[j])
            state = arithmetic.multiply_add(product, _forgotten(state, None if reset is None else alone(cut)), final)
        _put_number(high, j, state.high)
        if tiles.exact:
            _put_number(low, j, state.low)
        entries.append(entry)

    def last(i, states):
        return [stepped(write, j, i, (states[j],)) for j in groups]

    lax.fori_loop(0, tiles.steps, last, entries)


class _Taker:
    """Deals the references of a kernel in their order."""

    def __init__(self, refs, tiles):
        self.refs, self.tiles = iter(refs), tiles

    def one(self):
        return next(self.refs)

    def __call__(self):
        """Return a reference for each part of a number."""
        return [next(self.refs) for _ in range(self.tiles.parts)]

    def groups(self):
        """Return for each part of a number a list of references, one for each group of channels."""
        return [[next(self.refs) for _ in range(self.tiles.groups)] for _ in range(self.tiles.parts)]


def _start(h0, high, low, tiles):
    """Start the state from the given one, in all rows, at the first block of a row of the batch."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        for part, (start, words) in enumerate(zip(h0, high, strict=True)):
            for j in range(tiles.groups):
                words[j][...] = jnp.broadcast_to(start[:, _lanes(j)], (ROWS, LANES))
                low[part][j][...] = jnp.zeros((ROWS, LANES), jnp.float32)


def _copy_in(refs, rows, tiles, reverse, fill):
    """Copy a block to float32 rows of 128 lanes; what lies after the sequence becomes `fill`."""
    for part, (ref, target) in enumerate(zip(refs, rows, strict=True)):
        for j in range(tiles.groups):
            value = ref[:, _lanes(j)].astype(jnp.float32)
            if tiles.tail < tiles.tokens:
                token = lax.broadcasted_iota(jnp.int32, value.shape, 0) + tiles.block(reverse) * tiles.tokens
                value = jnp.where(token < tiles.length, value, 0.0 if part else fill)
            target[j][pl.ds(ROWS, tiles.tokens), :] = value


def _copy_neighbour(refs, h0, rows, tiles, reverse):
    """Copy the state before the block, or after it in a reverse scan, to its row; h0 at the end of the sequence."""
    block = tiles.block(not reverse)
    for ref, start, target in zip(refs, h0, rows, strict=True):
        for j in range(tiles.groups):
            if not reverse:
                before = ref[pl.ds(ROWS - 1, 1), _lanes(j)]
                target[j][pl.ds(ROWS - 1, 1), :] = jnp.where(block == 0, start[:, _lanes(j)], before)
                continue
            target[j][pl.ds(ROWS + tiles.tokens, 1), :] = ref[pl.ds(0, 1), _lanes(j)]

            @pl.when(block == tiles.blocks - 1)
            def _(j=j, start=start, target=target):
                target[j][pl.ds(ROWS + tiles.tail, 1), :] = start[:, _lanes(j)]


def _copy_out(rows, refs, tiles):
    for source, ref in zip(rows, refs, strict=True):
        for j in range(tiles.groups):
            ref[:, _lanes(j)] = source[j][pl.ds(ROWS, tiles.tokens), :].astype(ref.dtype)


def _copy_state(high, refs, tiles):
    """Copy the state after the block; that of the last block stays."""
    for words, ref in zip(high, refs, strict=True):
        for j in range(tiles.groups):
            ref[:, _lanes(j)] = words[j][pl.ds(0, 1), :]


def _row(rows, j, row, tiles):
    """Return step `row` of all eight chunks."""
    return _whole([part[j][pl.ds(row + ROWS, ROWS, stride=tiles.steps), :] for part in rows])


def _put_row(rows, j, row, tiles, value):
    for part, each in zip(rows, jax.tree.leaves(value), strict=True):
        part[j][pl.ds(row + ROWS, ROWS, stride=tiles.steps), :] = each


def _number(words, j):
    return _whole([part[j][...] for part in words])


def _put_number(words, j, value):
    for part, each in zip(words, jax.tree.leaves(value), strict=True):
        part[j][...] = each


def _whole(parts):
    return parts[0] if len(parts) == 1 else Complex(*parts)


def _reset_row(reset, row, tiles):
    return None if reset is None else reset[pl.ds(row, ROWS, stride=tiles.steps), :]


def _forgotten(states, reset):
    """Return the states, and 0 where a document starts: by a select, because 0 * NaN would be NaN."""
    return states if reset is None else jax.tree.map(lambda word: jnp.where(reset != 0, 0.0, word), states)


def _in_all_rows(row, word):
    return jnp.broadcast_to(word[row : row + 1], (ROWS, LANES))


def _lanes(j):
    return pl.ds(j * LANES, LANES)
