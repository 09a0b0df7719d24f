"""What is timed: a program that is compiled for its inputs, and runs as often as one calls it.

Two of them are yardsticks, for what the machine can do at all: XLA's own `a * b + b`, nothing but reading and writing,
and its own product of two matrices, nothing but multiplying and adding.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DIRECTIONS = ("forward", "backward")
MATMUL_SIZE = 1024


class Program(NamedTuple):
    """One direction of one way to compute an op, on inputs that it holds.

    Attributes:
      call: computes once, waits until it is done, and returns the outputs; backward, also the gradients of all inputs.
      compile_s: seconds until it could be called.
      temp_mib: the memory that a call needs beside inputs and outputs, in 2^20 bytes; None where that is unknown.
      to_numpy: one of the outputs as a NumPy array.
    """

    call: Callable[[], Any]
    compile_s: float
    temp_mib: float | None
    to_numpy: Callable[[Any], np.ndarray] = np.asarray


def compile_jax(run: Callable[..., jax.Array], direction: str, inputs: tuple[jax.Array, ...]) -> Program:
    """The program of a function of JAX arrays, differentiated as it stands.

    "backward" is the outputs and the gradients of sum |output|^2 with respect to all inputs: forward and backward. That
    sum itself is left out: in float32 its error depends on what XLA fuses it with, and would be laid to the contestant.
    """

    def task(*inputs):
        if direction == "forward":
            return run(*inputs)
        outputs, pullback = jax.vjp(run, *inputs)
        return outputs, pullback(2 * outputs.conj())

    # A scan that was traced before, as another contestant or in the other direction, would compile in less.
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(task).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    temp_mib = None if memory is None else memory.temp_size_in_bytes / 2**20
    return Program(lambda: jax.block_until_ready(program(*inputs)), seconds, temp_mib)


def bandwidth_yardstick(size: int) -> tuple[Program, int]:
    """a * b + b over float32 arrays of `size` bytes each, and the bytes that it moves."""
    a, b = jnp.full(size // 4, 0.5, jnp.float32), jnp.ones(size // 4, jnp.float32)
    return compile_jax(lambda a, b: a * b + b, "forward", (a, b)), 3 * a.nbytes


def matmul_yardstick(dtype: str) -> tuple[Program, int]:
    """The product of two square matrices of the dtype, and its multiplications and additions."""
    a, b = (jnp.full((MATMUL_SIZE, MATMUL_SIZE), value, dtype) for value in (0.5, 1.0))
    program = compile_jax(lambda a, b: jnp.matmul(a, b, precision=exactness(dtype)), "forward", (a, b))
    return program, 2 * MATMUL_SIZE**3


def exactness(dtype) -> lax.Precision:
    """The precision of all contestants' products: every digit of float32, the device's usual for half precision."""
    return lax.Precision.HIGHEST if jnp.finfo(dtype).bits >= 32 else lax.Precision.DEFAULT
