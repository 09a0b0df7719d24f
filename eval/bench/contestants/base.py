"""Define what is measured: the benchmark of an op, and contestants, the ways to compute it."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval import oracles
from eval.bench.programs import Program, compile_jax
from eval.bench.shapes import Shape
from recurrax import ops
from recurrax.ops import platforms
from recurrax.ops.samplers import Samplers


class Contestant(NamedTuple):
    """One way to compute an op.

    Attributes:
      name: in tables.
      run: maps the op's inputs to its outputs.
      ours: it is an implementation of the library.
      other: it computes another function, which users weigh against this op: timed, but compared with nothing.
      refuses: (sizes) -> why it is not to be run at them, or None.
      start: (run, direction, inputs) -> the program that is timed. Those that are not JAX's may raise where they cannot
        do a size or a dtype: then they are skipped.
      platforms: those on which it runs, names of `recurrax.ops.platforms`; on others it is in no table.
      is_here: whether what it needs besides is on this machine; if not, it is in no table.
      tolerance: what its error may be, if more than what is asked of the others.
    """

    name: str
    run: Callable[..., Any]
    ours: bool = False
    other: bool = False
    refuses: Callable[[tuple[int, ...]], str | None] = lambda sizes: None
    start: Callable[..., Program] = compile_jax
    platforms: tuple[str, ...] = platforms.PLATFORMS
    is_here: Callable[[], bool] = lambda: True
    tolerance: float = 0.0

    def can_run(self) -> bool:
        """Return whether it runs on this machine's devices."""
        here = platforms.of(jax.devices()[0].platform)
        return any(platform in self.platforms for platform in here) and self.is_here()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One op's table.

    Attributes:
      op: the op's name; where it has variants, with the variant after a slash.
      dims: the letters of a shape's sizes.
      shapes: the sizes that are timed unless others are asked for.
      oracle_sizes: upper bounds of the sizes at which the float64 oracle is run.
      dtypes: the input dtypes on offer.
      draw: (generator, sizes, is_complex) -> the inputs in float64 or, with `is_complex`, complex128.
      oracle: the inputs -> (output, gradients of sum |output|^2 with respect to the inputs), step by step in NumPy.
      numbers_moved: (sizes, direction) -> how many numbers memory must at least carry, each input and output once.
      operations: (sizes, direction) -> the multiplications and additions of the step-by-step form; of complex numbers,
        one counts as one.
      reference: the contestant that stands for the truth at the sizes that are timed.
      contestants: those that are compared; the first is the one that `implementation=None` picks.
    """

    op: str
    dims: tuple[str, ...]
    shapes: tuple[Shape, ...]
    oracle_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    draw: Callable[..., tuple[np.ndarray, ...]]
    oracle: Callable[..., tuple[np.ndarray, tuple[np.ndarray, ...]]]
    numbers_moved: Callable[[tuple[int, ...], str], int]
    operations: Callable[[tuple[int, ...], str], int]
    reference: Contestant
    contestants: tuple[Contestant, ...]

    def inputs(self, sizes: tuple[int, ...], dtype: str) -> tuple[jax.Array, ...]:
        """Return random inputs, the same for every contestant and every call."""
        return tuple(jnp.asarray(v, kind) for v, kind in self._drawn(sizes, dtype))

    def draw_shapes(self, sizes: tuple[int, ...], dtype: str) -> list[tuple[tuple[int, ...], Any]]:
        """Return the shapes and dtypes of the inputs."""
        return [(v.shape, kind) for v, kind in self._drawn(sizes, dtype)]

    def _drawn(self, sizes, dtype):
        is_complex = jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating)
        drawn = self.draw(np.random.default_rng(0), sizes, is_complex)
        return [(v, jnp.complex64 if np.iscomplexobj(v) else jnp.dtype(dtype)) for v in drawn]


def our_contestant(op: Callable[..., tuple[jax.Array, Any]], implementation: str | None) -> Contestant:
    """Return an op of the library as a contestant, without its last state, where it need not be interpreted."""
    declared = ops.OPS[op.__name__].implementations
    return Contestant(
        implementation or "default",
        lambda *inputs: op(*inputs, implementation=implementation)[0],
        ours=True,
        platforms=platforms.PLATFORMS if implementation is None else declared[implementation].platforms,
    )


def of_op(
    name: str,
    variant: str | None = None,
    *,
    dims: tuple[str, ...],
    shapes: tuple[Shape, ...],
    oracle_sizes: tuple[int, ...],
    operations: Callable[[tuple[int, ...], str], int],
    peers: tuple[Contestant, ...] = (),
) -> Benchmark:
    """Return the table of an op of the library, whose inputs and implementations are those of its declaration."""
    op, run = ops.OPS[name], getattr(ops, name)
    variant = op.variants[0] if variant is None else variant

    def draw(rng, sizes, is_complex=False):
        del is_complex
        drawn = op.draw(rng, {**op.sizes, **dict(zip(dims, sizes, strict=True))}, variant, Samplers())
        in_order = inspect.signature(run).parameters  # contestants take them by position
        return {argument: drawn[argument] for argument in in_order if argument in drawn and argument != op.state}

    names = tuple(draw(np.random.default_rng(0), oracle_sizes))

    def numbers_moved(sizes, direction):
        """Forward reads the inputs and writes the output; backward reads all these and writes the gradients."""
        inputs = draw(np.random.default_rng(0), sizes)
        shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in inputs.values()]
        read = sum(math.prod(shape.shape) for shape in shapes)
        written = jax.eval_shape(lambda *inputs: run(*inputs)[0], *shapes).size
        return read + written if direction == "forward" else 3 * read + 2 * written

    ours = functools.partial(our_contestant, run)
    return Benchmark(
        op=f"{name}/{variant}" if len(op.variants) > 1 else name,
        dims=dims,
        shapes=shapes,
        oracle_sizes=oracle_sizes,
        dtypes=("float32", "bfloat16"),
        draw=lambda rng, sizes, is_complex: tuple(draw(rng, sizes).values()),
        oracle=lambda *inputs: oracle_truth(getattr(oracles, name), dict(zip(names, inputs, strict=True))),
        numbers_moved=numbers_moved,
        operations=operations,
        reference=ours("reference"),
        contestants=(*map(ours, (None, *op.implementations)), *peers),
    )


def oracle_truth(
    oracle: Callable[..., tuple], inputs: dict[str, np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Compute a `Benchmark.oracle` by one of `eval.oracles`, run twice: the cotangents are those of its outputs."""
    outputs, state, _ = oracle(inputs)
    _, _, gradients = oracle(inputs, cotangents=(2 * outputs.conj(), np.zeros_like(state)))
    return outputs, tuple(gradients[name] for name in inputs)


def too_many(numbers: int, what: str, limit: int) -> str | None:
    """Return why sizes are refused at which a contestant would hold more than `limit` numbers at once, or None."""
    return f"{what} would be {numbers:,} numbers, where {limit:,} are the most it is given" if numbers > limit else None


def state_dtype(x: jax.Array) -> jnp.dtype:
    """Return the dtype of a state, float32 for half-precision inputs in peers too, so that all compute the same."""
    return jnp.promote_types(x.dtype, jnp.float32)
