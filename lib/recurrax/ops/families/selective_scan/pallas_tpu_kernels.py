"""Compute one block of Mamba's recurrence, or of its gradient, in the memory of a TPU core.

States are (N, 128): a register holds 8 states of 128 channels. A block has a few groups of 128 channels, whose steps
are written side by side, because each step waits for the one before it. The gradient runs the block's steps once more
for their states, and then backwards, with e_t the cotangent that step t passes on:

    d_t = c_t g_t^T + e_{t+1}       e_t = e^{dt_t a} * d_t       s_t = sum_n b_t[n] d_t[n]       w_t = e_t * h_{t-1}
    dx_t = dt_t s_t                 ddt_t = x_t s_t + sum_n a[n] w_t[n]                          da = sum_t dt_t w_t
    db_t = sum_e dt_t x_t d_t       dc_t = sum_e g_t h_t

All arithmetic is float32. Sums over n of 8 tokens end in one register, a token in each row.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops.pallas_tpu.kernels import LANES, ROWS, start

TURN = 16
"""Tokens of one turn of a loop: the rows of a tile of bfloat16."""


class Tiles(NamedTuple):
    """Sizes of a block."""

    tokens: int
    groups: int
    """Groups of 128 channels."""
    states: int
    """N, filled up to a multiple of 8."""

    @property
    def width(self) -> int:
        return self.groups * LANES


class Inputs(NamedTuple):
    """The inputs: arrays, their blocks, or references to those in a kernel."""

    x: Any
    """(B, T, E)."""
    dt: Any
    a: Any
    """(N, E)."""
    b: Any
    """(B, blocks, N, tokens), in float32."""
    c: Any
    reset: Any
    """None, or (B, T, 128): in all lanes 1 where a document starts."""


def forward(tiles, inputs, first, y, last, before, state):
    """Write y, the last state, and the state before the block if `before` is a reference."""
    start(first, state)
    if before is not None:
        before[...] = state[...]
    groups, rates = range(tiles.groups), _rates(tiles, inputs)

    def turn(i, states):
        here = _Turn(tiles, inputs, i)
        c, sums = here.columns(inputs.c), [_SumsOfTokens() for _ in groups]
        for t in range(TURN):
            for j in groups:
                states[j] = here.step(t, j, states[j], rates[j])
                sums[j].add(c[t] * states[j])
        for j in groups:
            y[here.block(j)] = sums[j].rows().astype(y.dtype)
        return states

    states = lax.fori_loop(0, tiles.tokens // TURN, turn, [state[:, _lanes(j)] for j in groups])
    for j in groups:
        state[:, _lanes(j)] = states[j]
    last[...] = state[...]


def backward(tiles, inputs, before, g, g_last, gradients, d_first, d_state, states):
    """Write the gradients of the inputs and of the first state; that of a is the sum over the blocks so far."""
    start(g_last, d_state)
    groups, rates = range(tiles.groups), _rates(tiles, inputs)
    number = tiles.states

    def again(i, entering):
        here = _Turn(tiles, inputs, i)
        for t in range(TURN):
            for j in groups:
                entering[j] = here.step(t, j, entering[j], rates[j])
                states[here.state(t + 1, j)] = entering[j]
        return entering

    states[pl.ds(0, number), :] = before[...]
    lax.fori_loop(0, tiles.tokens // TURN, again, [before[:, _lanes(j)] for j in groups])
    lane = lax.broadcasted_iota(jnp.int32, (number, tiles.tokens), 1)

    def turn(i, carry):
        here = _Turn(tiles, inputs, tiles.tokens // TURN - 1 - i)
        c, reads = here.columns(inputs.c), [here.rows(g, j) for j in groups]
        passed, d_rates, d_b, d_c = carry
        by_drive, by_decay = ([_SumsOfTokens(backwards=True) for _ in groups] for _ in range(2))
        for t in reversed(range(TURN)):
            written = read = 0.0
            for j in groups:
                dt, drive, cotangent = (each[t : t + 1] for each in (here.dt[j], here.drive[j], reads[j]))
                d = passed[j] + c[t] * cotangent
                passed[j] = jnp.exp2(dt * rates[j]) * d
                d_decay = here.forgotten(t, passed[j] * states[here.state(t, j)])
                passed[j] = here.forgotten(t, passed[j])
                by_drive[j].add(here.b[t] * d)
                by_decay[j].add(rates[j] * d_decay)
                d_rates[j] += dt * d_decay
                written += drive * d
                read += cotangent * states[here.state(t + 1, j)]
            token = lane == here.first + t
            d_b = jnp.where(token, jnp.sum(written, axis=1, keepdims=True), d_b)
            d_c = jnp.where(token, jnp.sum(read, axis=1, keepdims=True), d_c)
        for j in groups:
            block, d_drive = here.block(j), by_drive[j].rows()
            gradients.x[block] = (here.dt[j] * d_drive).astype(gradients.x.dtype)
            d_dt = here.x[j] * d_drive + by_decay[j].rows() * math.log(2)
            gradients.dt[block] = d_dt.astype(gradients.dt.dtype)
        return passed, d_rates, d_b, d_c

    zero = jnp.zeros((number, tiles.tokens), jnp.float32)
    d_rates = [jnp.zeros((number, LANES), jnp.float32) for _ in groups]
    carry = [d_state[:, _lanes(j)] for j in groups], d_rates, zero, zero
    passed, d_rates, d_b, d_c = lax.fori_loop(0, tiles.tokens // TURN, turn, carry)
    gradients.b[...], gradients.c[...] = d_b, d_c

    @pl.when(pl.program_id(2) == 0)
    def _():
        gradients.a[...] = jnp.zeros(gradients.a.shape, jnp.float32)

    for j in groups:
        d_state[:, _lanes(j)] = passed[j]
        gradients.a[:, _lanes(j)] += d_rates[j]
    d_first[...] = d_state[...]


class _SumsOfTokens:
    """Sums over the rows of each of 16 arrays (N, 128), added one after the other.

    Two registers are merged into one whose rows belong to the one or the other in turns, then four, then eight.
    """

    def __init__(self, *, backwards=False):
        """`backwards`: the last token is added first."""
        self.backwards, self.pending, self.whole = backwards, [], []

    def add(self, x):
        level, x = 0, x.reshape(-1, ROWS, LANES).sum(0)
        while self.pending and self.pending[-1][0] == level:
            pair = (self.pending.pop()[1], x)
            x, level = self._merged(*(pair[::-1] if self.backwards else pair), 1 << level), level + 1
        self.pending.append((level, x))
        if 1 << level == ROWS:
            self.whole.append(self.pending.pop()[1])

    def rows(self):
        """Return (16, 128), the sums of each token in its row."""
        return jnp.concatenate(self.whole[::-1] if self.backwards else self.whole)

    def _merged(self, first, second, apart):
        is_first = lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 0) & apart == 0
        return jnp.where(is_first, first, second) + pltpu.roll(jnp.where(is_first, second, first), apart, 0)


def _rates(tiles, inputs):
    """Return a / log(2) by group of channels: the unit computes powers of two."""
    return [inputs.a[:, _lanes(j)] * (1 / math.log(2)) for j in range(tiles.groups)]


class _Turn:
    """Sixteen tokens of a block, as they lie in registers."""

    def __init__(self, tiles, inputs, i):
        self.tiles, self.first = tiles, pl.multiple_of(i * TURN, TURN)
        self.x, self.dt = ([self.rows(ref, j) for j in range(tiles.groups)] for ref in (inputs.x, inputs.dt))
        self.drive = [dt * x for dt, x in zip(self.dt, self.x, strict=True)]
        self.b = self.columns(inputs.b)
        self.reset = None if inputs.reset is None else inputs.reset[pl.ds(self.first, TURN), :]

    def block(self, j):
        """Return the place of these tokens and of a group of channels."""
        return pl.ds(self.first, TURN), _lanes(j)

    def rows(self, ref, j):
        """Return these tokens in float32."""
        return ref[self.block(j)].astype(jnp.float32)

    def state(self, t, j):
        """Return the place of the state before token t in a list of all states of the block."""
        number = self.tiles.states
        return pl.ds(pl.multiple_of((self.first + t) * number, ROWS), number), _lanes(j)

    def columns(self, ref):
        """Return for each token its column of (N, tokens), in all 128 lanes."""
        number, tokens = ref.shape
        turned = pltpu.roll(ref[...], tokens - self.first, 1)
        return [jnp.broadcast_to(turned[:, t : t + 1], (number, LANES)) for t in range(TURN)]

    def step(self, t, j, state, rates):
        """Return the state after token t."""
        decay = jnp.exp2(self.dt[j][t : t + 1] * rates)
        return decay * self.forgotten(t, state) + self.drive[j][t : t + 1] * self.b[t]

    def forgotten(self, t, x):
        """Return x, and 0 where a document starts: by a select, because 0 * NaN would be NaN."""
        return x if self.reset is None else jnp.where(self.reset[t : t + 1] != 0, 0.0, x)


def _lanes(j):
    return pl.ds(j * LANES, LANES)
