"""Call Mamba's recurrence and its gradient as Pallas TPU kernels, which hold all states on the chip.

A grid of (row of the batch, group of channels, block of time) covers the arrays. Blocks of time run in order; for the
backward pass the forward kernel stores the state before each. `pallas_tpu_kernels` says what happens to a block.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops import platforms
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.families.selective_scan.pallas_tpu_kernels import TURN, Inputs, Tiles, backward, forward
from recurrax.ops.pallas_tpu.kernels import LANES, ROWS, call, filled, refusal

TOKENS = 128
"""Tokens of a block."""
GROUPS = 8
"""The most groups of 128 channels of a block, of up to 16 states."""
FLOPS = (20, 60)
"""Roughly, of one step of one state: forward and backward."""


def supports(arguments):
    """Return why the kernel does not take these arguments, if it does not."""
    return refusal(arguments, "x", "dt")


def on_a_known_tpu(arguments, platform):
    """Prefer the kernel for blocks that are not mostly empty, if the program is known to run on a TPU."""
    return platforms.known(platform) and arguments.sizes["T"] >= TOKENS // 2


@functools.partial(jax.jit, static_argnames=("chunk_size", "interpret"))
def scan(x, dt, a, b, c, state, reset, *, chunk_size=None, interpret=False):
    """Return the same as `reference.scan`."""
    (_, length, channels), number = x.shape, a.shape[1]
    tokens = TOKENS if chunk_size is None else min(-(-chunk_size // TURN) * TURN, TOKENS)
    x, dt = (filled(filled(each, 1, tokens), 2, LANES) for each in (x, dt))
    b, c = (filled(filled(each.astype(jnp.float32), 1, tokens), 2, ROWS) for each in (b, c))
    a, state = (filled(filled(each.astype(jnp.float32), -1, ROWS), -2, LANES) for each in (a, state))
    reset = None if reset is None else filled(reset, 1, tokens)
    lanes, states = x.shape[2] // LANES, b.shape[2]
    most = max(1, min(GROUPS, GROUPS * 16 // states))
    tiles = Tiles(tokens, next(n for n in range(most, 0, -1) if lanes % n == 0), states)
    y, last = _scan(_Form(tiles, interpret), x, dt, a.T, b, c, state.swapaxes(1, 2), reset)
    return y[:, :length, :channels], last.swapaxes(1, 2)[:, :channels, :number]


class _Form(NamedTuple):
    tiles: Tiles
    interpret: bool


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _scan(form, x, dt, a, b, c, state, reset):
    grid = _Grid(form.tiles, *x.shape, reverse=False)
    inputs = [grid.inputs(x, dt, a, b, c, reset), grid.state(state)]
    y, last, _ = grid.call(form, forward, inputs, [grid.like(x), grid.state(state), (None, None)])
    return y, last


def _scan_forward(form, x, dt, a, b, c, state, reset):
    grid = _Grid(form.tiles, *x.shape, reverse=False)
    inputs = [grid.inputs(x, dt, a, b, c, reset), grid.state(state)]
    y, last, before = grid.call(form, forward, inputs, [grid.like(x), grid.state(state), grid.before()])
    return (y, last), (x, dt, a, b, c, reset, before)


def _scan_backward(form, residuals, cotangents):
    *given, before = residuals
    g, g_last = cotangents
    grid = _Grid(form.tiles, *g.shape, reverse=True)
    inputs = [grid.inputs(*given), grid.before(before), grid.like(g), grid.state(g_last)]
    gradients, d_state = grid.call(form, backward, inputs, [grid.gradients(*given[:2]), grid.state(g_last)])
    d_b, d_c = (each.sum(1).swapaxes(2, 3).reshape(g.shape[0], g.shape[1], -1) for each in (gradients.b, gradients.c))
    return gradients.x, gradients.dt, gradients.a.sum(0), d_b, d_c, d_state, None


_scan.defvjp(_scan_forward, _scan_backward)


class _Grid(NamedTuple):
    """The blocks of arrays, as pairs (array or its shape, BlockSpec)."""

    tiles: Tiles
    batch: int
    length: int
    channels: int
    reverse: bool
    """Whether the kernel goes through the blocks from the last one."""

    def call(self, form, kernel, inputs, outputs):
        """Return the results of kernel(tiles, *references) by `kernels.call`."""
        tiles, is_backward = self.tiles, kernel is backward
        entries = [tiles.states] + [(tiles.tokens + 1) * tiles.states] * is_backward
        steps = self.batch * self.length * self.channels * tiles.states
        return call(
            functools.partial(kernel, tiles),
            f"selective_scan_{kernel.__name__}",
            (self.batch, self.channels // tiles.width, self.length // tiles.tokens),
            inputs,
            outputs,
            [pltpu.VMEM((n, tiles.width), jnp.float32) for n in entries],
            flops=FLOPS[is_backward] * steps,
            transcendentals=steps * (1 + is_backward),
            interpret=form.interpret,
        )

    def inputs(self, x, dt, a, b, c, reset):
        tiles = self.tiles
        b, c = (each.reshape(self.batch, -1, tiles.tokens, tiles.states).swapaxes(2, 3) for each in (b, c))
        columns = pl.BlockSpec((None, None, *b.shape[2:]), lambda i, n, t: (i, self._block(t), 0, 0))
        rates = pl.BlockSpec((tiles.states, tiles.width), lambda i, n, t: (0, n))
        lanes = None
        if reset is not None:
            reset = jnp.broadcast_to(reset.astype(jnp.int32)[..., None], (*reset.shape, LANES))
            lanes = pl.BlockSpec((None, tiles.tokens, LANES), lambda i, n, t: (i, self._block(t), 0))
        tokens = self._tokens()
        return Inputs(x, dt, a, b, c, reset), Inputs(tokens, tokens, rates, columns, columns, lanes)

    def gradients(self, x, dt):
        """Return the shapes of gradients: those of a by row, those of b and c by group of channels."""
        tiles = self.tiles
        groups, blocks = self.channels // tiles.width, self.length // tiles.tokens
        a = jax.ShapeDtypeStruct((self.batch, tiles.states, self.channels), jnp.float32)
        b = jax.ShapeDtypeStruct((self.batch, groups, blocks, tiles.states, tiles.tokens), jnp.float32)
        columns = pl.BlockSpec((None, None, None, *b.shape[3:]), lambda i, n, t: (i, n, self._block(t), 0, 0))
        tokens = self._tokens()
        return Inputs(x, dt, a, b, b, None), Inputs(tokens, tokens, self.state(a)[1], columns, columns, None)

    def like(self, x):
        """Return an array (B, T, E)."""
        return x, self._tokens()

    def state(self, state):
        """Return states (B, N, E)."""
        return state, pl.BlockSpec((None, self.tiles.states, self.tiles.width), lambda i, n, t: (i, 0, n))

    def before(self, states=None):
        """Return the states before all blocks, (B, blocks, N, E), or their shape."""
        shape = (self.batch, self.length // self.tiles.tokens, self.tiles.states, self.channels)
        states = jax.ShapeDtypeStruct(shape, jnp.float32) if states is None else states
        block = (None, None, self.tiles.states, self.tiles.width)
        return states, pl.BlockSpec(block, lambda i, n, t: (i, self._block(t), 0, n))

    def _tokens(self):
        return pl.BlockSpec((None, self.tiles.tokens, self.tiles.width), lambda i, n, t: (i, self._block(t), n))

    def _block(self, t):
        return self.length // self.tiles.tokens - 1 - t if self.reverse else t
