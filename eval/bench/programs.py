"""Provides the programs that are timed, each compiled for its inputs and callable any number of times.

Two of them are yardsticks of what the machine can do: XLA's own `a * b + b`, which is bound by memory, and its own
product of two matrices, which is bound by arithmetic.
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
    """One direction of one implementation of an op, with its inputs.

    Attributes:
      call: computes once, waits until it is done, and returns the outputs; backward, also the gradients of all inputs.
      compile_s: seconds until it could be called.
      temp_mib: the memory that a call needs besides inputs and outputs, in 2^20 bytes; None if unknown.
      to_numpy: one of the outputs as a NumPy array.
    """

    call: Callable[[], Any]
    compile_s: float
    temp_mib: float | None
    to_numpy: Callable[[Any], np.ndarray] = np.asarray


def compile_jax(run: Callable[..., jax.Array], direction: str, inputs: tuple[jax.Array, ...]) -> Program:
    """Return the program of a function of JAX arrays, differentiated by JAX.

    "backward" computes the outputs and the gradients of sum |output|^2 with respect to all inputs. The sum itself is
    not computed: in float32 its error depends on how XLA fuses it, and would count as the contestant's.
    """

    def task(*inputs):
        if direction == "forward":
            return run(*inputs)
        outputs, pullback = jax.vjp(run, *inputs)
        return outputs, pullback(2 * outputs.conj())

    # A scan that was traced before, by another contestant or in the other direction, would compile faster.
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(task).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    temp_mib = None if memory is None else memory.temp_size_in_bytes / 2**20
    return Program(lambda: jax.block_until_ready(program(*inputs)), seconds, temp_mib)


def bandwidth_yardstick(size: int) -> tuple[Program, int]:
    """Return a * b + b over float32 arrays of `size` bytes each, and the bytes that it moves."""
    a, b = jnp.full(size // 4, 0.5, jnp.float32), jnp.ones(size // 4, jnp.float32)
    return compile_jax(lambda a, b: a * b + b, "forward", (a, b)), 3 * a.nbytes


def matmul_yardstick(dtype: str) -> tuple[Program, int]:
    """Return the product of two square matrices of the dtype, and its number of multiplications and additions."""
    a, b = (jnp.full((MATMUL_SIZE, MATMUL_SIZE), value, dtype) for value in (0.5, 1.0))
    program = compile_jax(lambda a, b: jnp.matmul(a, b, precision=exactness(dtype)), "forward", (a, b))
    return program, 2 * MATMUL_SIZE**3


def exactness(dtype) -> lax.Precision:
    """Return the precision of all matrix products: full for float32, the device's default for half precision."""
    return lax.Precision.HIGHEST if jnp.finfo(dtype).bits >= 32 else lax.Precision.DEFAULT
