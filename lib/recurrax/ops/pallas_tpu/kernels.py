"""Provide what all Pallas TPU kernels share: their call, the start of a state, and whole registers."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops.differentiation import is_forward_mode

LANES, ROWS = 128, 8
"""A vector register of float32: 8 rows of 128 lanes."""
MEMORY = 2**25
"""The most bytes that a block and its intermediate results may take: more than the default on v5e, 16 MiB."""


def refusal(arguments, *names, dtypes=(jnp.float32, jnp.bfloat16)):
    """Return why a kernel does not take these arguments, of which the named ones have to have one of the dtypes."""
    if is_forward_mode():
        return "has no forward-mode derivative"
    *others, last = (jnp.dtype(dtype).name for dtype in dtypes)
    for name in names:
        if (dtype := arguments[name].dtype) not in dtypes:
            return f"takes {', '.join(others)} and {last}, and {name} is {dtype}"
    return None


def call(kernel, name, grid, inputs, outputs, scratch, *, flops, transcendentals=0, interpret=False):
    """Return the results of kernel(*references to inputs, *references to outputs, *references to scratch).

    Args:
      kernel: a function of references. The last axis of the grid is time, whose blocks run in order.
      name: of the call in the program.
      grid: numbers of blocks: rows of the batch, groups of heads or channels, blocks of time.
      inputs: pairs of arrays and their blocks, both pytrees.
      outputs: the same with arrays like the results, or their shapes.
      scratch: memory of a core that stays between blocks.
      flops: number of all blocks together, roughly; `transcendentals` likewise.
      interpret: whether to run it in an interpreter.
    """
    arrays = [each for each, _ in inputs]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tuple(each for each, _ in outputs))
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[block for _, block in inputs],
        out_specs=tuple(block for _, block in outputs),
        out_shape=shapes,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((arrays, shapes))),
            transcendentals=transcendentals,
        ),
        interpret=interpret,
        name=name,
    )(*arrays)


def start(given, state):
    """Start the state from the given one at the first block of time."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        state[...] = given[...]


def filled(x, axis, multiple):
    """Return x with zeros at the end of an axis, up to a multiple of this size."""
    missing = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, missing if i == axis % x.ndim else 0) for i in range(x.ndim)]) if missing else x
