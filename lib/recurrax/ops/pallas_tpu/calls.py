"""Run a pair of kernels, forward and backward, along a whole sequence: from the arguments of an op to its results.

For the backward pass the forward kernel stores the state before each chunk. Keys and values are filled up to sizes that
suit the lanes of a TPU, the sequence to whole chunks.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recurrax.ops import blocks, containment, platforms
from recurrax.ops.decay import FLOOR, split_sums
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.pallas_tpu.chunks import CHANNEL, HEAD, NONE, Chunk, Inputs, Kept, Sums
from recurrax.ops.pallas_tpu.decays import BFLOAT16, EXACT
from recurrax.ops.pallas_tpu.grid import Grid
from recurrax.ops.pallas_tpu.kernels import LANES, filled, refusal

CHUNK_SIZE = 128
HEADS = 8
"""The most heads of a block in bfloat16, whose chains of products hide each other's latency; a quarter in float32."""
STATES = 2**17
"""The most numbers of the states of a block, of which the memory of a core holds several copies."""
MULTIPLE = 64
"""Keys and values are filled up to a multiple of this."""


class Kernels(NamedTuple):
    """A family's kernels of one chunk."""

    name: str
    forward: Callable
    """(chunk, inputs, first state, spoil, o, last state, kept or None, state): references. It reads `Inputs`, the first
    state and `spoil` (`Grid.spoil`), and writes o, the last state and `Kept`."""
    backward: Callable
    """(chunk, inputs, kept, cotangents of o and the last state, spoil of queries and of keys, gradients of inputs and
    of the first state, cotangent of the state)."""
    products: tuple[int, int]
    """Number of products of a chunk's matrices, forward and backward."""
    solves: bool
    """Whether the kernel keeps the inverse of a triangular system of each chunk."""


def supports(arguments):
    """Return why kernels do not take these arguments, if they do not."""
    return refusal(arguments, "q")


def on_a_known_tpu(arguments, platform):
    """Prefer the kernel where a chunk fills the matrix units, if the program is known to run on a TPU.

    A program for several platforms would store what the backward passes of all of them need.
    """
    return platforms.known(platform) and arguments.sizes["T"] >= 64


def run(kernels, state, tokens, reset, *, scale, chunk_size, interpret):
    """Return the outputs (B, T, Hq, V) and the last state, for the arguments of `recurrax.ops.blocks.sweep`."""
    (_, length, heads, key), value = tokens.written[0].shape, tokens.written[1].shape[3]
    size = min(1 << (min(chunk_size or CHUNK_SIZE, length) - 1).bit_length(), CHUNK_SIZE)
    size = max(size, 16)  # rows of a tile of bfloat16
    document = None
    if reset is not None:
        document = jnp.pad(jnp.cumsum(reset, axis=1, dtype=jnp.int32), ((0, 0), (0, -length % size)), mode="edge")
        reset = filled(reset, 1, size)
    tokens = jax.tree.map(lambda x: filled(x, 1, size), tokens)
    q, (k, v), strength, log_decay = tokens
    decay = _kind(log_decay, reset)
    q, k, v, state = (
        filled(q, 3, MULTIPLE),
        filled(k, 3, MULTIPLE),
        filled(v, 3, MULTIPLE),
        filled(filled(state, 2, MULTIPLE), 3, MULTIPLE),
    )
    exact = q.dtype != jnp.bfloat16
    chunk = Chunk(
        size=size,
        heads=_heads_of_a_block(heads, k.shape[3], v.shape[3], HEADS // (4 if exact else 1)),
        queries=q.shape[2] // heads,
        key=k.shape[3],
        value=v.shape[3],
        scale=scale,
        decay=decay,
        precision=EXACT if exact else BFLOAT16,
    )
    tokens = blocks.Tokens(q, (k, v), strength, filled(log_decay, 3, MULTIPLE) if decay == CHANNEL else log_decay)
    o, last = _run(_Form(kernels, chunk, interpret), tokens, state, reset, document)
    return o[:, :length, :, :value], last[..., :key, :value]


class _Form(NamedTuple):
    kernels: Kernels
    chunk: Chunk
    interpret: bool

    def grid(self, tokens, *, reverse):
        batch, length, heads, _ = tokens.written[0].shape
        return Grid(self.chunk, batch, length, heads, reverse)

    def inputs(self, grid, tokens, gates, reset):
        """Return the inputs as the kernels read them."""
        q, (k, v), strength, log_decay = tokens
        q, k, v = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
        resets = None
        if self.chunk.decay == CHANNEL:
            gates = log_decay.reshape(q.shape[0], q.shape[1], -1)
            if reset is not None:
                resets = reset.astype(jnp.float32).reshape(q.shape[0], -1, 1, self.chunk.size)
        elif self.chunk.decay == HEAD:
            parts = split_sums(gates)
            columns = (grid.columns(part.reshape(*part.shape[:2], -1).swapaxes(1, 2)) for part in parts)
            gates = Sums(jnp.stack(parts, axis=3), tuple(columns))
        if strength is not None:
            strength = strength.astype(jnp.float32)
            strength = grid.columns(jnp.where(jnp.isfinite(strength), strength, 0.0))
        return grid.inputs(Inputs(q, k, v, strength, gates, resets))

    def gates(self, tokens, reset):
        """Return the gates of heads in float32, those of resets among them, as rows (B, H, chunks, C)."""
        if self.chunk.decay != HEAD:
            return None
        log_decay = tokens.log_decay
        if log_decay is None:
            gates = jnp.zeros((*reset.shape, tokens.written[0].shape[2]), jnp.float32)
        else:
            gates = log_decay[..., 0].astype(jnp.float32)
            gates = jnp.maximum(jnp.where(gates < jnp.inf, gates, 0.0), FLOOR)
        gates = gates if reset is None else jnp.where(reset[..., None], FLOOR, gates)
        gates = gates.swapaxes(1, 2)
        return gates.reshape(*gates.shape[:2], -1, self.chunk.size)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _run(form, tokens, state, reset, document):
    return _forward(form, tokens, state, reset, document, keeps=False)[0]


def _run_forward(form, tokens, state, reset, document):
    results, kept = _forward(form, tokens, state, reset, document, keeps=True)
    return results, (tokens, reset, document, *kept)


def _run_backward(form, residuals, cotangents):
    tokens, reset, document, hidden, kept = residuals
    g, g_last = cotangents
    bad, lost = containment.returned(g, hidden)
    bad_last = ~jnp.isfinite(g_last).all((2, 3))
    bad = bad.reshape(*bad.shape[:2], g_last.shape[1], -1).sum(3).at[:, -1].add(bad_last.astype(bad.dtype))
    since_reset = functools.partial(_since_reset, form, document)
    reached, reached_first = jax.linear_transpose(since_reset, bad, bad[:, 0])(bad)

    grid = form.grid(tokens, reverse=True)
    gates, gates_back = jax.vjp(lambda tokens: form.gates(tokens, reset), tokens)
    read, of_inputs = form.inputs(grid, tokens, gates, reset)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), read._replace(resets=None))
    if form.chunk.decay == HEAD:
        shapes = shapes._replace(gates=jax.ShapeDtypeStruct((*gates.shape[:3], 1, form.chunk.size), jnp.float32))
    gradients, d_state = grid.call(
        form.kernels.backward,
        f"{form.kernels.name}_backward",
        [
            (read, of_inputs),
            grid.kept(kept),
            grid.outputs(g.reshape(*g.shape[:2], -1)),
            grid.state(containment.cleaned(g_last, bad_last)),
            grid.spoil(lost),
            grid.spoil(reached),
        ],
        [grid.inputs(shapes), grid.state(jax.ShapeDtypeStruct(g_last.shape, g_last.dtype))],
        products=form.kernels.products[1],
        interpret=form.interpret,
    )

    def like(gradient, x):
        return None if x is None else gradient.reshape(x.shape)

    q, (k, v), strength, log_decay = tokens
    if form.chunk.decay == CHANNEL:
        log_decay = like(gradients.gates, log_decay)
    elif form.chunk.decay == HEAD:
        (of_tokens,) = gates_back(gradients.gates.reshape(gates.shape))
        log_decay = None if log_decay is None else containment.spoilt(of_tokens.log_decay, reached > 0)
    if strength is not None:
        strength = gradients.strength.swapaxes(1, 2).reshape(strength.shape).astype(strength.dtype)
    of_tokens = blocks.Tokens(like(gradients.q, q), (like(gradients.k, k), like(gradients.v, v)), strength, log_decay)
    return of_tokens, containment.spoilt(d_state, reached_first > 0), None, None


_run.defvjp(_run_forward, _run_backward)


def _forward(form, tokens, state, reset, document, *, keeps):
    """Return o and the last state, and for the backward pass which outputs are NaN and what the kernel keeps."""
    chunk = form.chunk
    grid = form.grid(tokens, reverse=False)
    bad, own, first = _flags(tokens, state)
    seen = _since_reset(form, document, bad, first)
    hidden = jnp.repeat(seen, chunk.queries, axis=2) + own
    o = jax.ShapeDtypeStruct((grid.batch, grid.length, grid.heads * chunk.queries * chunk.value), tokens.q.dtype)
    kept = (None, None)
    if keeps:
        each = (grid.batch, grid.length // chunk.size, grid.heads)
        inverses = jax.ShapeDtypeStruct((*each, chunk.size, chunk.size), tokens.q.dtype)
        states = jax.ShapeDtypeStruct((*each, *state.shape[2:]), state.dtype)
        kept = grid.kept(Kept(states, inverses if form.kernels.solves else None))
    o, last, kept = grid.call(
        form.kernels.forward,
        f"{form.kernels.name}_forward",
        [
            form.inputs(grid, tokens, form.gates(tokens, reset), reset),
            grid.state(containment.cleaned(state, first > 0)),
            grid.spoil(hidden),
        ],
        [grid.outputs(o), grid.state(jax.ShapeDtypeStruct(state.shape, state.dtype)), kept],
        products=form.kernels.products[0],
        interpret=form.interpret,
    )
    o = o.reshape(*tokens.q.shape[:3], chunk.value)
    return (o, containment.spoilt(last, seen[:, -1] > 0)), (hidden, kept)


def _flags(tokens, state):
    """Return the flags of what each token writes, (B, T, H), of its queries, (B, T, Hq), and of the first state."""
    q, written, strength, log_decay = tokens
    more = () if strength is None else (strength[..., None],)
    first = (~jnp.isfinite(state)).any((2, 3)).astype(containment.FLAG)
    return containment.flags(*written, *more, log=log_decay), containment.flags(q), first


def _since_reset(form, document, flags, first):
    return containment.since_reset(flags, first, document, flags.shape[1] // form.chunk.size)


def _kind(log_decay, reset):
    """Return the kind of decay, where a reset is a gate of all channels of a head."""
    if log_decay is not None and log_decay.shape[3] > 1:
        return CHANNEL
    return NONE if log_decay is None and reset is None else HEAD


def _heads_of_a_block(heads, key, value, most):
    """Return the number of heads whose keys and values fill whole lanes, or all of them."""
    least = LANES // math.gcd(LANES, math.gcd(key, value))
    most = max(min(most, STATES // (key * value)), least)
    return next((n for n in range(most, 0, -1) if heads % n == 0 and n % least == 0), heads)
