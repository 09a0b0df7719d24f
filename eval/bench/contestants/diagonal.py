"""Provide the table of `diagonal_scan`."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from eval import oracles
from eval.bench import shapes
from eval.bench.contestants.base import Benchmark, Contestant, oracle_truth, our_contestant, state_dtype
from recurrax.ops import OPS, diagonal_scan


def _draw(rng, sizes, is_complex):
    """Draw decay factors sigmoid(normal + 2), with uniform phases if they are complex, and normal inputs."""
    a, x = 1 / (1 + np.exp(-rng.standard_normal(sizes) - 2)), rng.standard_normal(sizes)
    if is_complex:
        return a * np.exp(2j * np.pi * rng.uniform(size=sizes)), x + 1j * rng.standard_normal(sizes)
    return a, x


def _numbers_moved(sizes, direction):
    """Count the numbers: forward reads a and x and writes h; backward reads a and h and writes the two gradients."""
    return int(np.prod(sizes)) * (3 if direction == "forward" else 3 + 4)


def _operations(sizes, direction):
    """Count the operations: forward one multiplication and one addition; backward as many again, d h and 2 h."""
    return int(np.prod(sizes)) * (2 if direction == "forward" else 2 + 4)


def lax_scan(a, x):
    """Run the textbook loop, `lax.scan` over time, which must be the leading axis."""
    dtype = state_dtype(x)

    def step(h, inputs):
        a_t, x_t = inputs
        h = a_t.astype(dtype) * h + x_t.astype(dtype)
        return h, h.astype(x.dtype)

    time_first = (jnp.moveaxis(a, 1, 0), jnp.moveaxis(x, 1, 0))
    _, h = lax.scan(step, jnp.zeros_like(x[:, 0], dtype), time_first)
    return jnp.moveaxis(h, 0, 1)


def lax_associative_scan(a, x):
    """Run the textbook parallel form, (a2, x2) o (a1, x1) = (a2 a1, a2 x1 + x2)."""
    dtype = state_dtype(x)

    def combine(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    _, h = lax.associative_scan(combine, (a.astype(dtype), x.astype(dtype)), axis=1)
    return h.astype(x.dtype)


DIAGONAL_SCAN = Benchmark(
    op="diagonal_scan",
    dims=("B", "T", "D"),
    shapes=shapes.DIAGONAL_SCAN,
    oracle_sizes=(2, 97, 8),
    dtypes=("float32", "complex64", "bfloat16"),
    draw=_draw,
    oracle=lambda a, x: oracle_truth(oracles.diagonal_scan, {"a": a, "x": x}),
    numbers_moved=_numbers_moved,
    operations=_operations,
    reference=our_contestant(diagonal_scan, "reference"),
    contestants=(
        *(
            our_contestant(diagonal_scan, implementation)
            for implementation in (None, *OPS["diagonal_scan"].implementations)
        ),
        Contestant("lax.scan", lax_scan),
        Contestant("lax.associative_scan", lax_associative_scan),
    ),
)
