"""Compute linear attention and its gradient as Pallas TPU kernels (`recurrax.ops.pallas_tpu`).

The maths of a chunk and of its gradient, which goes through the chunks from the last one, is in `pallas_tpu.attention`.
Products of inputs in bfloat16 have factors in bfloat16; those of float32 are as exact as float32.
"""

import functools

import jax

from recurrax.ops import blocks
from recurrax.ops.pallas_tpu import attention, calls
from recurrax.ops.pallas_tpu.chunks import head, side_by_side, write
from recurrax.ops.pallas_tpu.kernels import start


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "interpret"))
def attend(q, k, v, log_decay, state, reset, *, scale, chunk_size=None, interpret=False):
    """Return the same as `reference.attend`."""
    options = {"scale": scale, "chunk_size": chunk_size, "interpret": interpret}
    return calls.run(KERNELS, state, blocks.Tokens(q, (k, v), None, log_decay), reset, **options)


def forward(chunk, inputs, first, spoil, o, last, kept, state):
    """Write the outputs, the last state and the states before chunks."""
    start(first, state)

    def one(h):
        decay = chunk.decay_of(inputs, h)
        keys, values, before = head(inputs.k, h, chunk.key), head(inputs.v, h, chunk.value), state[h]
        if kept is not None:
            kept.states[h] = before
        state[h] = yield from attention.read(chunk, inputs, h, decay, keys, values, before, o, spoil)

    side_by_side(one(h) for h in range(chunk.heads))
    last[...] = state[...]


def backward(chunk, inputs, kept, g, g_last, spoil, spoil_keys, gradients, d_first, d_state):
    """Write the gradients of the inputs and of the first state."""
    start(g_last, d_state)

    def one(h):
        decay = chunk.decay_of(inputs, h)
        keys, values = head(inputs.k, h, chunk.key), head(inputs.v, h, chunk.value)
        reading = chunk, inputs, h, decay, keys, values, kept.states[h], g, d_state[h], gradients, spoil
        d_keys, d_values, d_state[h] = yield from attention.read_back(*reading)
        write(gradients.k, h, chunk.key, d_keys, spoil_keys)
        write(gradients.v, h, chunk.value, d_values, spoil_keys)
        chunk.write_gates(gradients, h, decay, spoil_keys)

    side_by_side(one(h) for h in range(chunk.heads))
    d_first[...] = d_state[...]


KERNELS = calls.Kernels("linear_attention", forward, backward, products=(4, 10), solves=False)
