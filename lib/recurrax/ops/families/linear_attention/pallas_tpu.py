"""Call linear attention and its gradient as Pallas TPU kernels: chunk by chunk, the state on the chip.

A grid of (row of the batch, group of heads, chunk) covers the arrays (B, T, H K); chunks run in order. For the backward
pass the forward kernel stores the state before each chunk. `pallas_tpu_kernels` says what happens in a chunk.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops import blocks, containment, platforms
from recurrax.ops.decay import FLOOR, split_sums
from recurrax.ops.differentiation import custom_vjp, is_forward_mode
from recurrax.ops.families.linear_attention.pallas_tpu_decays import BFLOAT16, EXACT
from recurrax.ops.families.linear_attention.pallas_tpu_kernels import CHANNEL, HEAD, NONE, Chunk, backward, forward

CHUNK_SIZE = 128
HEADS = 8
"""The most heads of a block: their chains of products hide each other's latency. A quarter of it in float32."""
STATES = 2**17
"""The most numbers of the states of a block, of which the memory of a core holds several copies."""
LANES = 128
MULTIPLE = 64
"""Keys and values are filled up to a multiple of this."""


def supports(arguments):
    if is_forward_mode():
        return "has no forward-mode derivative"
    if (dtype := arguments["q"].dtype) not in (jnp.float32, jnp.bfloat16):
        return f"takes float32 and bfloat16, got {dtype}"
    return None


def on_a_known_tpu(arguments, platform):
    """Prefer the kernel where a chunk fills the matrix units, if the program is known to run on a TPU.

    A program for several platforms would store what the backward passes of all of them need.
    """
    return platforms.known(platform) and arguments.sizes["T"] >= 64


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "interpret"))
def attend(q, k, v, log_decay, state, reset, *, scale, chunk_size=None, interpret=False):
    """Return the same as `reference.attend`."""
    size = min(1 << (min(chunk_size or CHUNK_SIZE, q.shape[1]) - 1).bit_length(), CHUNK_SIZE)
    size = max(size, 16)  # rows of a tile of bfloat16
    kernel = functools.partial(_chunks, scale, interpret)
    return blocks.whole(kernel, size, state, blocks.Tokens(q, (k, v), None, log_decay), reset)


def _chunks(scale, interpret, chunks, state, tokens, reset, flags):
    """Return the last state and the outputs, for a length that is a multiple of the chunks."""
    q, (k, v), _, log_decay = tokens
    batch, length, heads, key = k.shape
    value = v.shape[-1]
    q, k = _filled(q, 3), _filled(k, 3)
    v, state = _filled(v, 3), _filled(_filled(state, 2), 3)
    decay, gates = _gates(log_decay, reset, heads, chunks)
    resets = None
    if decay == CHANNEL and reset is not None:
        resets = reset.astype(jnp.float32).reshape(batch, chunks, 1, length // chunks)
    chunk = Chunk(
        size=length // chunks,
        heads=_heads_of_a_block(heads, k.shape[-1], v.shape[-1], HEADS if q.dtype == jnp.bfloat16 else HEADS // 4),
        queries=q.shape[2] // heads,
        key=k.shape[-1],
        value=v.shape[-1],
        scale=scale,
        decay=decay,
        resets=resets is not None,
        precision=BFLOAT16 if q.dtype == jnp.bfloat16 else EXACT,
    )
    merged = [x.reshape(batch, length, -1) for x in (q, k, v)]
    o, last = _attend(_Form(chunk, interpret), *merged, gates, resets, state, *flags)
    return last[..., :key, :value], o.reshape(batch, length, q.shape[2], -1)[..., :value]


def _gates(log_decay, reset, heads, chunks):
    """Return the kind of decay and the gates: (B, H, chunks, C) with those of resets, or (B, T, H K) as they are."""
    if log_decay is None and reset is None:
        return NONE, None
    if log_decay is not None and log_decay.shape[-1] > 1:
        return CHANNEL, _filled(log_decay, 3).reshape(*log_decay.shape[:2], -1)
    gates = jnp.zeros((*reset.shape, heads), jnp.float32) if log_decay is None else log_decay[..., 0]
    gates = jnp.maximum(gates.astype(jnp.float32), FLOOR)
    gates = gates if reset is None else jnp.where(reset[..., None], FLOOR, gates)
    gates = gates.swapaxes(1, 2)
    return HEAD, gates.reshape(*gates.shape[:2], chunks, -1)


class _Form(NamedTuple):
    chunk: Chunk
    interpret: bool


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _attend(form, q, k, v, gates, resets, state, seen, own):
    return _forward(form, False, q, k, v, gates, resets, state, seen + own)


def _attend_forward(form, q, k, v, gates, resets, state, seen, own):
    o, last, states = _forward(form, True, q, k, v, gates, resets, state, seen + own)
    return (o, last), (q, k, v, gates, resets, states, seen + own)


def _attend_backward(form, residuals, cotangents):
    q, k, v, gates, resets, states, hidden = residuals
    g, g_last = cotangents
    flags = containment.returned(g.reshape(*hidden.shape, -1), hidden)
    grid = _Grid(form.chunk, *q.shape[:2], states.shape[2], reverse=True)
    inputs = [grid.queries(q), grid.keys(k), grid.values(v), *grid.gates(gates, resets), grid.states(states)]
    inputs += [grid.outputs(g), grid.state(g_last)]
    outputs = [grid.queries(q), grid.keys(k), grid.values(v)]
    outputs += grid.gates_gradient(gates)
    dq, dk, dv, *dgates, dstate = grid.call(form, backward, {}, inputs, [*outputs, grid.state(g_last)], flops=10)
    return dq, dk, dv, dgates[0].reshape(gates.shape) if dgates else None, None, dstate, *flags


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(form, keeps, q, k, v, gates, resets, state, hidden):
    """Return o, the last state and, if the kernel keeps them, the states before all chunks."""
    chunk = form.chunk
    grid = _Grid(chunk, *q.shape[:2], state.shape[1], reverse=False)
    inputs = [
        grid.queries(q),
        grid.keys(k),
        grid.values(v),
        *grid.gates(gates, resets),
        grid.state(state),
        grid.flags(hidden),
    ]
    width = state.shape[1] * chunk.queries * chunk.value
    outputs = [grid.outputs(jax.ShapeDtypeStruct((*q.shape[:2], width), q.dtype)), grid.state(state)]
    if keeps:
        shape = (state.shape[0], q.shape[1] // chunk.size, *state.shape[1:])
        outputs.append(grid.states(jax.ShapeDtypeStruct(shape, state.dtype)))
    return grid.call(form, forward, {"keeps": keeps}, inputs, outputs, flops=4)


class _Grid(NamedTuple):
    """The blocks of arrays, as pairs (array or its shape, BlockSpec)."""

    chunk: Chunk
    batch: int
    length: int
    heads: int
    reverse: bool
    """Whether the kernel goes through the chunks from the last one."""

    def call(self, form, kernel, options, inputs, outputs, flops):
        """Return the results of a kernel; `flops` counts its products of a chunk's matrices."""
        chunk = self.chunk
        arrays, shapes = [array for array, _ in inputs], [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs]
        products = flops * 2 * self.batch * self.length * self.heads * chunk.queries * chunk.key * chunk.value
        return pl.pallas_call(
            functools.partial(kernel, chunk=chunk, **options),
            grid=(self.batch, self.heads // chunk.heads, self.length // chunk.size),
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for _, spec in outputs],
            out_shape=shapes,
            scratch_shapes=[pltpu.VMEM((chunk.heads, chunk.key, chunk.value), jnp.float32)],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=products,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *shapes)),
                transcendentals=self.batch * self.length * self.heads * chunk.size,
            ),
            interpret=form.interpret,
            name=f"linear_attention_{kernel.__name__}",
        )(*arrays)

    def queries(self, array):
        return self._tokens(array, self.chunk.queries * self.chunk.key)

    def outputs(self, array):
        return self._tokens(array, self.chunk.queries * self.chunk.value)

    def keys(self, array):
        return self._tokens(array, self.chunk.key)

    def values(self, array):
        return self._tokens(array, self.chunk.value)

    def gates(self, gates, resets):
        """Return nothing without gates, the sums of those of heads, (B, H, chunks, 2, C), or channels' and resets."""
        if gates is None:
            return []
        if self.chunk.decay == CHANNEL:
            row = pl.BlockSpec((None, None, 1, self.chunk.size), lambda b, h, n: (b, self._number(n), 0, 0))
            return [self.keys(gates), *([] if resets is None else [(resets, row)])]
        shape = (None, self.chunk.heads, None, 2, self.chunk.size)
        sums = jnp.stack(split_sums(gates), axis=3)
        return [(sums, pl.BlockSpec(shape, lambda b, h, n: (b, h, self._number(n), 0, 0)))]

    def gates_gradient(self, gates):
        if gates is None or self.chunk.decay == CHANNEL:
            return self.gates(gates, None)
        shape = (*gates.shape[:3], 1, self.chunk.size)
        spec = pl.BlockSpec((None, self.chunk.heads, None, *shape[3:]), lambda b, h, n: (b, h, self._number(n), 0, 0))
        return [(jax.ShapeDtypeStruct(shape, gates.dtype), spec)]

    def flags(self, flags):
        """Return flags (B, T, Hq) as rows (B, Hq, chunks, 1, C)."""
        heads = self.chunk.heads * self.chunk.queries
        rows = flags.swapaxes(1, 2).reshape(self.batch, -1, self.length // self.chunk.size, 1, self.chunk.size)
        shape = (None, heads, None, 1, self.chunk.size)
        return rows, pl.BlockSpec(shape, lambda b, h, n: (b, h, self._number(n), 0, 0))

    def state(self, state):
        """Return states (B, H, K, V)."""
        return state, pl.BlockSpec((None, self.chunk.heads, *state.shape[2:]), lambda b, h, n: (b, h, 0, 0))

    def states(self, states):
        """Return states (B, chunks, H, K, V)."""
        shape = (None, None, self.chunk.heads, *states.shape[3:])
        return states, pl.BlockSpec(shape, lambda b, h, n: (b, self._number(n), h, 0, 0))

    def _tokens(self, array, width):
        shape = (None, self.chunk.size, self.chunk.heads * width)
        return array, pl.BlockSpec(shape, lambda b, h, n: (b, self._number(n), h))

    def _number(self, n):
        return self.length // self.chunk.size - 1 - n if self.reverse else n


def _heads_of_a_block(heads, key, value, most):
    """Return the number of heads whose keys and values fill whole lanes, or all of them."""
    least = LANES // math.gcd(LANES, math.gcd(key, value))
    most = max(min(most, STATES // (key * value)), least)
    return next((n for n in range(most, 0, -1) if heads % n == 0 and n % least == 0), heads)


def _filled(x, axis):
    missing = -x.shape[axis] % MULTIPLE
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x
