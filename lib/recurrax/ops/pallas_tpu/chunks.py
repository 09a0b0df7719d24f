"""Describe one chunk of a kernel with matrix states: its sizes, its inputs, and how the kernel reads them by head."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from recurrax.ops.decay import spacing
from recurrax.ops.pallas_tpu.decays import ChannelDecay, HeadDecay, NoDecay, column

NONE, HEAD, CHANNEL = "none", "head", "channel"
"""Kinds of decay."""


class Inputs(NamedTuple):
    """The inputs by token, or their gradients: arrays, their blocks, or references to those in a kernel."""

    q: Any
    """(B, T, Hq K), in a kernel (C, heads queries K)."""
    k: Any
    v: Any
    strength: Any
    """None, or a column for each head, (B, blocks, T, heads), in float32."""
    gates: Any
    """None, the sums of heads' log-decays (`Sums`), or channels' log-decays (B, T, H K). The gradient is that of the
    log-decays, of heads as rows (B, H, chunks, 1, C)."""
    resets: Any
    """None, or those beside the log-decays of channels, (B, chunks, 1, C), 1 where a document starts."""


class Sums(NamedTuple):
    """The two parts of G_i = g_1 + ... + g_i of each chunk, as rows and as columns: a kernel is slow to turn one."""

    rows: Any
    """(B, H, chunks, 2, C)."""
    columns: Any
    """The columns of first parts and those of second parts, (B, blocks, T, heads) each."""


class Kept(NamedTuple):
    """What the forward kernel writes for the backward one."""

    states: Any
    """The states before all chunks, (B, chunks, H, K, V)."""
    inverses: Any
    """None, or the inverses of the triangular systems of all chunks, (B, chunks, H, C, C)."""


class Chunk(NamedTuple):
    """Sizes of a chunk, and what its kernel does."""

    size: int
    """C."""
    heads: int
    """Heads of a block."""
    queries: int
    """Queries that read each state."""
    key: int
    value: int
    scale: float
    decay: str
    precision: str

    def decay_of(self, inputs: Inputs, h: int):
        """Return the decay of head h."""
        if self.decay == NONE:
            return NoDecay(self.size, self.precision)
        if self.decay == HEAD:
            sums = inputs.gates
            rows, columns = [sums.rows[h, i : i + 1] for i in range(2)], [part[:, h : h + 1] for part in sums.columns]
            return HeadDecay(rows, columns, self.precision)
        log_decay = inputs.gates[:, lanes(h, self.key)].astype(jnp.float32)
        reset = None if inputs.resets is None else column(inputs.resets[...]) > 0
        return ChannelDecay(log_decay, reset, spacing(self.size, jnp.float32), self.precision)

    def queries_of(self, h: int) -> range:
        """Return the numbers of the queries that read the state of head h."""
        return range(h * self.queries, (h + 1) * self.queries)

    def write_gates(self, gradients: Inputs, h: int, decay, spoil):
        """Write the gradient of head h's log-decays, spoilt (see `write`) unless they are rows."""
        if self.decay == HEAD:
            gradients.gates[h] = decay.gates()
        elif self.decay == CHANNEL:
            write(gradients.gates, h, self.key, decay.gates(), spoil)


def head(ref, h, size):
    """Return one head of a block (C, heads * size) in float32, and zeros where it is not finite."""
    x = ref[:, lanes(h, size)].astype(jnp.float32)
    return jnp.where(jnp.abs(x) < jnp.inf, x, 0.0)


def write(ref, h, size, x, spoil):
    """Write one head of a block after adding the head's column of `spoil` (C, heads): NaN or 0."""
    ref[:, lanes(h, size)] = (x + spoil[:, h : h + 1]).astype(ref.dtype)


def lanes(h, size):
    """Return the columns of head h."""
    return pl.ds(h * size, size)


def side_by_side(heads):
    """Run the generators of some heads in turns, each up to its next `yield`.

    A head yields where it would wait for a product. The compiler schedules instructions mostly in the order in which
    they are written: those of the other heads fill the time.
    """
    running = list(heads)
    while running:
        running = [each for each in running if next(each, running) is not running]
