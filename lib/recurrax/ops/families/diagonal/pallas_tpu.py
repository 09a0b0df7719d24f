"""Call the scan and its gradient as Pallas TPU kernels, which read every input and write every output once.

A grid of (row of the batch, group of channels, block of time) covers the arrays. Blocks of time run in the order of the
scan, and the state between them stays on the chip. `pallas_tpu_kernels` says what happens to a block. Complex numbers
are two arrays, the real and the imaginary part.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops.families.diagonal.pallas_tpu_kernels import Tiles, backward, forward
from recurrax.ops.pallas_tpu.kernels import LANES, ROWS, call

STEPS = 66
"""The most steps of a chunk, C, unless the caller says otherwise."""
GROUPS = 4
"""The most groups of 128 channels of a block: four chains of operations hide each other's latency."""
FLOPS = 70
"""Roughly, of one step of one channel."""


def scan(a, x, h0, reset, *, reverse, chunk_size, dtypes, interpret=False):
    """Return all states h_t = a_t * h_{t-1} + x_t in each of `dtypes`, and the last one in the dtype of h0.

    a and x (B, T, N) are float32, bfloat16 or complex64, h0 (B, N) is float32 or complex64, reset (B, T) or None.
    """
    grid = _grid(a, x, chunk_size, reverse, reset)
    kernel = functools.partial(
        forward, tiles=grid.tiles, reverse=reverse, copies=len(dtypes), has_reset=reset is not None
    )
    inputs = [grid.tokens(a), grid.tokens(x), grid.state(h0)]
    outputs = [*(("tokens", x.shape, dtype) for dtype in dtypes), ("state", h0.shape, h0.dtype)]
    return grid.call(kernel, inputs, outputs, 2, interpret)


def gradients(a, h, h0, reset, g, g_last, *, reverse, chunk_size, dtypes, interpret=False):
    """Return (da, dx, dh0) of `scan`, the first two in `dtypes`, for cotangents of its states and of the last one."""
    grid = _grid(a, g, chunk_size, not reverse, reset)
    kernel = functools.partial(backward, tiles=grid.tiles, reverse=reverse, has_reset=reset is not None)
    inputs = [grid.tokens(a), grid.tokens(g), grid.tokens(h), grid.neighbour(h), grid.state(h0), grid.state(g_last)]
    outputs = [*(("tokens", h.shape, dtype) for dtype in dtypes), ("state", h0.shape, h0.dtype)]
    return grid.call(kernel, inputs, outputs, 3, interpret)


def _grid(a, x, chunk_size, reverse, reset):
    length, width = x.shape[1:]
    lanes = -(-width // LANES)
    blocks = -(-length // (ROWS * (chunk_size or STEPS)))
    steps = -(-length // (ROWS * blocks))
    # Even, because a tile of bfloat16 has 16 rows; no multiple of 4, because the eight rows of a register then lie in
    # few banks of the memory, and are read one after the other.
    steps += (2 - steps) % 4
    is_complex = jnp.iscomplexobj(x)
    tiles = Tiles(
        length=length,
        steps=steps,
        blocks=-(-length // (ROWS * steps)),
        groups=next(n for n in range(GROUPS // (1 + is_complex), 0, -1) if lanes % n == 0),
        parts=1 + is_complex,
        exact=is_complex or jnp.float32 in (a.dtype, x.dtype),
    )
    return _Grid(tiles, x.shape[0], width, lanes * LANES, reverse, reset)


class _Grid(NamedTuple):
    """The arrays of a call and their blocks, as pairs (arrays, BlockSpec) with an array for each part of a number."""

    tiles: Tiles
    batch: int
    channels: int
    padded: int
    """Channels, filled up to a multiple of 128."""
    reverse: bool
    """Whether the kernel goes through the sequence from its end."""
    reset: jax.Array | None

    def call(self, kernel, inputs, outputs, scratch, interpret):
        """Return the results of a kernel; `outputs` are triples (kind, shape, dtype)."""
        tiles = self.tiles
        inputs = [(part, spec) for parts, spec in inputs for part in parts]
        if self.reset is not None:
            inputs.append(self._resets())
        shapes, specs = [], []
        for kind, shape, dtype in outputs:
            rows = 1 if kind == "state" else shape[1]
            real = jnp.finfo(dtype).dtype
            shapes += [jax.ShapeDtypeStruct((self.batch, rows, self.padded), real)] * tiles.parts
            specs += [self._of_state() if kind == "state" else self._of_tokens()] * tiles.parts
        # Two tiles more than the tokens: the rows before and after a block.
        rows, words = (pltpu.VMEM((n, LANES), jnp.float32) for n in (tiles.tokens + 2 * ROWS, ROWS))
        found = call(
            kernel,
            f"diagonal_scan_{kernel.func.__name__}",
            (self.batch, self.padded // tiles.width, tiles.blocks),
            inputs,
            list(zip(shapes, specs, strict=True)),
            [each for each in [rows] * scratch + [words] * 2 for _ in range(tiles.parts * tiles.groups)],
            flops=FLOPS * self.batch * tiles.length * self.padded,
            interpret=interpret,
        )
        results = []
        for i, (kind, _, _) in enumerate(outputs):
            parts = [part[..., : self.channels] for part in found[i * tiles.parts : (i + 1) * tiles.parts]]
            whole = lax.complex(*parts) if tiles.parts == 2 else parts[0]
            results.append(whole[:, 0] if kind == "state" else whole)
        return tuple(results)

    def tokens(self, array):
        """Return an array (B, T, N) in blocks of tokens."""
        return self._parts(array), self._of_tokens()

    def state(self, array):
        """Return an array (B, N) in blocks of channels."""
        return self._parts(array[:, None]), self._of_state()

    def neighbour(self, h):
        """Return h and the tile before each block, or after it where the scan runs backwards."""
        tiles, last = self.tiles.tokens // ROWS, -(-self.tiles.length // ROWS) - 1
        # The gradient's direction is the opposite of the scan's.
        first = (lambda block: block * tiles - 1) if self.reverse else (lambda block: (block + 1) * tiles)
        return self._parts(h), pl.BlockSpec(
            (None, ROWS, self.tiles.width), lambda b, n, t: (b, jnp.clip(first(self._block(t)), 0, last), n)
        )

    def _resets(self):
        """Return the resets in all 128 lanes, false after the sequence."""
        tiles = self.tiles
        filled = jnp.pad(self.reset, ((0, 0), (0, tiles.blocks * tiles.tokens - tiles.length)))
        lanes = jnp.broadcast_to(filled.astype(jnp.int32)[..., None], (*filled.shape, LANES))
        return lanes, pl.BlockSpec((None, tiles.tokens, LANES), lambda b, n, t: (b, self._block(t), 0))

    def _of_tokens(self):
        return pl.BlockSpec((None, self.tiles.tokens, self.tiles.width), lambda b, n, t: (b, self._block(t), n))

    def _of_state(self):
        return pl.BlockSpec((None, 1, self.tiles.width), lambda b, n, t: (b, 0, n))

    def _block(self, t):
        return self.tiles.blocks - 1 - t if self.reverse else t

    def _parts(self, array):
        missing = self.padded - self.channels
        array = jnp.pad(array, ((0, 0), (0, 0), (0, missing))) if missing else array
        return [array.real, array.imag] if self.tiles.parts == 2 else [array]
