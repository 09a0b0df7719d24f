"""Cut arrays into the blocks of a kernel: a grid of (row of the batch, group of heads, chunk), chunks in order."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops import containment
from recurrax.ops.pallas_tpu.chunks import CHANNEL, Chunk, Inputs, Kept
from recurrax.ops.pallas_tpu.kernels import call


class Grid(NamedTuple):
    """The blocks of arrays, which one call of a kernel at a time has in the memory of a core."""

    chunk: Chunk
    batch: int
    length: int
    heads: int
    reverse: bool
    """Whether the kernel goes through the chunks from the last one."""

    def call(self, kernel, name, inputs, outputs, *, products, interpret):
        """Return the results of kernel(chunk, *references to inputs, *references to outputs, state) by `kernels.call`.

        `products` is the number of products of a chunk's matrices in the kernel.
        """
        chunk, tokens = self.chunk, self.batch * self.length * self.heads
        return call(
            functools.partial(kernel, chunk),
            name,
            (self.batch, self.heads // chunk.heads, self.length // chunk.size),
            inputs,
            outputs,
            [pltpu.VMEM((chunk.heads, chunk.key, chunk.value), jnp.float32)],
            flops=products * 2 * tokens * chunk.queries * chunk.key * chunk.value,
            transcendentals=tokens * chunk.size,
            interpret=interpret,
        )

    def inputs(self, arrays: Inputs):
        """Return the inputs, or the shapes of their gradients, and their blocks."""
        blocks = Inputs(
            q=self._tokens(self.chunk.queries * self.chunk.key),
            k=self._tokens(self.chunk.key),
            v=self._tokens(self.chunk.value),
            strength=self._columns(arrays.strength),
            gates=self._tokens(self.chunk.key)
            if self.chunk.decay == CHANNEL
            else jax.tree.map(self._sums, arrays.gates),
            resets=pl.BlockSpec((None, None, 1, self.chunk.size), lambda b, h, n: (b, self._number(n), 0, 0)),
        )
        return arrays, _given(arrays, blocks)

    def outputs(self, o):
        """Return the outputs (B, T, Hq V)."""
        return o, self._tokens(self.chunk.queries * self.chunk.value)

    def spoil(self, flags):
        """Return flags (B, T, H) as columns of NaN where a flag is above 0 and of 0 elsewhere."""
        columns = self.columns(containment.spoil(flags > 0))
        return columns, self._columns(columns)

    def state(self, state):
        """Return states (B, H, K, V)."""
        return state, pl.BlockSpec((None, self.chunk.heads, *state.shape[2:]), lambda b, h, n: (b, h, 0, 0))

    def kept(self, kept: Kept):
        """Return what the forward kernel keeps for each chunk."""
        return kept, jax.tree.map(self._each_chunk, kept)

    def columns(self, x):
        """Return numbers (B, T, H) of tokens and heads as columns, (B, blocks, T, heads)."""
        return x.reshape(*x.shape[:2], self.heads // self.chunk.heads, -1).swapaxes(1, 2)

    def _columns(self, columns):
        if columns is None:
            return None
        return pl.BlockSpec((None, None, self.chunk.size, columns.shape[3]), lambda b, h, n: (b, h, self._number(n), 0))

    def _sums(self, part):
        if part.ndim == 4:
            return self._columns(part)
        return pl.BlockSpec(
            (None, self.chunk.heads, None, *part.shape[3:]), lambda b, h, n: (b, h, self._number(n), 0, 0)
        )

    def _each_chunk(self, array):
        shape = (None, None, self.chunk.heads, *array.shape[3:])
        return pl.BlockSpec(shape, lambda b, h, n: (b, self._number(n), h, 0, 0))

    def _tokens(self, width):
        shape = (None, self.chunk.size, self.chunk.heads * width)
        return pl.BlockSpec(shape, lambda b, h, n: (b, self._number(n), h))

    def _number(self, n):
        return self.length // self.chunk.size - 1 - n if self.reverse else n


def _given(arrays, blocks):
    return type(arrays)(*(None if x is None else block for x, block in zip(arrays, blocks, strict=True)))
