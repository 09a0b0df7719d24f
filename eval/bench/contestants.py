"""Who runs in each op's table: our implementations, what one would write without them, and the truth in NumPy.

A `Benchmark` is everything the measurement needs to know about one op; `BENCHMARKS` lists them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eval.bench import shapes
from recurrax.ops import diagonal_scan
from recurrax.ops.diagonal.api import IMPLEMENTATIONS as DIAGONAL_SCAN_IMPLEMENTATIONS


class Contestant(NamedTuple):
    """One way to compute an op: `run` maps the op's inputs to its outputs, and is differentiated as it stands."""

    name: str
    run: Callable[..., jax.Array]
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One op's table.

    Attributes:
      op: the op's name.
      dims: the letters of a shape's sizes.
      shapes: the sizes that are timed unless others are asked for.
      oracle_sizes: upper bounds of the sizes at which the float64 oracle is run.
      dtypes: the input dtypes on offer.
      draw: (generator, sizes) -> the inputs in float64 or, with `is_complex`, complex128.
      oracle: the inputs -> (output, gradients of sum |output|^2 with respect to the inputs), step by step in NumPy.
      numbers_moved: (sizes, direction) -> how many numbers memory must at least carry, each input and output once.
      reference: the contestant that stands for the truth at the sizes that are timed.
      contestants: those that are compared; the first is the one that `implementation=None` picks.
    """

    op: str
    dims: tuple[str, ...]
    shapes: tuple[shapes.Shape, ...]
    oracle_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    draw: Callable[..., tuple[np.ndarray, ...]]
    oracle: Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...]]]
    numbers_moved: Callable[[tuple[int, ...], str], int]
    reference: Contestant
    contestants: tuple[Contestant, ...]

    def inputs(self, sizes: tuple[int, ...], dtype: str) -> tuple[jax.Array, ...]:
        """The same random inputs for every contestant and every call."""
        is_complex = jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating)
        return tuple(jnp.asarray(v, dtype) for v in self.draw(np.random.default_rng(0), sizes, is_complex))


def _draw_diagonal_scan(rng, sizes, is_complex):
    """Decays sigmoid(normal + 2), of any phase where complex, and normal inputs."""
    a, x = 1 / (1 + np.exp(-rng.standard_normal(sizes) - 2)), rng.standard_normal(sizes)
    if is_complex:
        return a * np.exp(2j * np.pi * rng.uniform(size=sizes)), x + 1j * rng.standard_normal(sizes)
    return a, x


def _diagonal_scan_oracle(a, x):
    """h_t = a_t h_{t-1} + x_t; d_t = 2 conj(h_t) + a_{t+1} d_{t+1} is the gradient of x_t, d_t h_{t-1} that of a_t."""
    h, da, dx = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    length = x.shape[1]
    for t in range(length):
        h[:, t] = x[:, t] if t == 0 else a[:, t] * h[:, t - 1] + x[:, t]
    for t in reversed(range(length)):
        dx[:, t] = 2 * h[:, t].conj()
        if t < length - 1:
            dx[:, t] += a[:, t + 1] * dx[:, t + 1]
        if t > 0:
            da[:, t] = dx[:, t] * h[:, t - 1]
    return h, (da, dx)


def _diagonal_scan_numbers_moved(sizes, direction):
    """Forward reads a and x and writes h; backward reads a and h and writes the two gradients."""
    return int(np.prod(sizes)) * (3 if direction == "forward" else 3 + 4)


def _ours(a, x, implementation):
    return diagonal_scan(a, x, implementation=implementation)[0]


def _state_dtype(x):
    """Peers, too, keep the state of half-precision inputs in float32, so that all contestants compute the same."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _lax_scan(a, x):
    """The textbook loop: `lax.scan` over time, which must lead."""
    dtype = _state_dtype(x)

    def step(h, inputs):
        a_t, x_t = inputs
        h = a_t.astype(dtype) * h + x_t.astype(dtype)
        return h, h.astype(x.dtype)

    time_first = (jnp.moveaxis(a, 1, 0), jnp.moveaxis(x, 1, 0))
    _, h = lax.scan(step, jnp.zeros_like(x[:, 0], dtype), time_first)
    return jnp.moveaxis(h, 0, 1)


def _lax_associative_scan(a, x):
    """The textbook parallel form: (a2, x2) o (a1, x1) = (a2 a1, a2 x1 + x2)."""
    dtype = _state_dtype(x)

    def combine(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    _, h = lax.associative_scan(combine, (a.astype(dtype), x.astype(dtype)), axis=1)
    return h.astype(x.dtype)


def _contestant(implementation):
    run = functools.partial(_ours, implementation=implementation)
    return Contestant(implementation or "default", run, ours=True)


DIAGONAL_SCAN = Benchmark(
    op="diagonal_scan",
    dims=("B", "T", "D"),
    shapes=shapes.DIAGONAL_SCAN,
    oracle_sizes=(2, 97, 8),
    dtypes=("float32", "complex64", "bfloat16"),
    draw=_draw_diagonal_scan,
    oracle=_diagonal_scan_oracle,
    numbers_moved=_diagonal_scan_numbers_moved,
    reference=_contestant("reference"),
    contestants=(
        *(_contestant(implementation) for implementation in (None, *DIAGONAL_SCAN_IMPLEMENTATIONS)),
        Contestant("lax.scan", _lax_scan),
        Contestant("lax.associative_scan", _lax_associative_scan),
    ),
)

BENCHMARKS = (DIAGONAL_SCAN,)
