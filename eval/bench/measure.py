"""Verifies every contestant, then times those that are right, all in one process and in shuffled order.

Medians of interleaved samples can be compared on a machine that others use too: a slow second slows everyone. Compile
time is measured apart. The yardstick is `a * b + b` over as many bytes as one input and output array takes, timed in
the same interleaving: the bandwidth that XLA itself reaches with nothing but reading and writing.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eval.bench.contestants import Benchmark, Contestant

DIRECTIONS = ("forward", "backward")
LIMIT = "a * b + b"


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant in one table. What was not measured is None.

    Attributes:
      status: "ok", "wrong" (not timed), or "limit" (the yardstick).
      oracle_error: largest |error| / largest |truth| against the float64 oracle at a reduced size; the worst of
        the output or, backward, of the loss and all gradients.
      reference_error: the same against our reference implementation at the timed size.
      tolerance: what either error may be.
      median_ms, quartile_1_ms, quartile_3_ms: of `repeats` calls.
      compile_s: tracing, lowering and compiling.
      temp_mib: the memory that the compiled program needs beside its arguments and results, 2^20 bytes.
      gb_per_s: the least traffic that the task needs, over the median time, 10^9 bytes.
      bandwidth_share: gb_per_s over that of the yardstick.
      time_over_ours: the median over that of the row `ours`: above 1, ours is faster.
    """

    op: str
    direction: str
    shape: tuple[int, ...]
    dtype: str
    contestant: str
    is_ours: bool
    status: str
    repeats: int
    oracle_error: float | None = None
    reference_error: float | None = None
    tolerance: float | None = None
    median_ms: float | None = None
    quartile_1_ms: float | None = None
    quartile_3_ms: float | None = None
    compile_s: float | None = None
    temp_mib: float | None = None
    gb_per_s: float | None = None
    bandwidth_share: float | None = None
    time_over_ours: float | None = None
    ours: str | None = None


def table(
    benchmark: Benchmark,
    contestants: Sequence[Contestant],
    sizes: tuple[int, ...],
    dtype: str,
    direction: str,
    repeats: int,
) -> list[Row]:
    """One row per contestant, the first of which is the `ours` that the others are compared with, and the yardstick's.

    "backward" is the value and the gradients of sum |output|^2 with respect to all inputs: forward and backward.
    """
    inputs = benchmark.inputs(sizes, dtype)
    tolerance = 2e-2 if jnp.finfo(dtype).bits < 32 else 1e-5
    reference, _, _ = _compile(benchmark.reference, direction, inputs)
    truth = jax.tree.map(np.asarray, reference(*inputs))
    rows, compiled = [], {}
    for contestant in contestants:
        program, compile_s, temp_mib = _compile(contestant, direction, inputs)
        oracle_error = _oracle_error(benchmark, contestant, sizes, dtype, direction, program)
        reference_error = _error(program(*inputs), truth)
        right = max(oracle_error, reference_error) <= tolerance
        if right:
            compiled[contestant.name] = program
        rows.append(
            Row(
                *(benchmark.op, direction, sizes, dtype, contestant.name, contestant.ours),
                status="ok" if right else "wrong",
                repeats=repeats if right else 0,
                oracle_error=oracle_error,
                reference_error=reference_error,
                tolerance=tolerance,
                compile_s=compile_s,
                temp_mib=temp_mib,
            )
        )
    del truth
    calls = {name: (program, inputs) for name, program in compiled.items()}
    calls[LIMIT] = _yardstick(inputs[0].nbytes)
    samples = _time_interleaved(calls, repeats)
    limit_row = Row(benchmark.op, direction, sizes, dtype, LIMIT, False, "limit", repeats)
    traffic = benchmark.numbers_moved(sizes, direction) * jnp.dtype(dtype).itemsize
    limit_traffic = 3 * calls[LIMIT][1][0].nbytes
    limit_gb_per_s = limit_traffic / np.median(samples[LIMIT]) / 1e9
    ours = contestants[0].name
    return [
        _with_times(row, samples, limit_traffic if row is limit_row else traffic, limit_gb_per_s, ours)
        for row in (*rows, limit_row)
    ]


def _with_times(row, samples, traffic, limit_gb_per_s, ours):
    if row.contestant not in samples:
        return row
    first, median, third = np.quantile(samples[row.contestant], [0.25, 0.5, 0.75])
    gb_per_s = traffic / median / 1e9
    return dataclasses.replace(
        row,
        median_ms=1e3 * float(median),
        quartile_1_ms=1e3 * float(first),
        quartile_3_ms=1e3 * float(third),
        gb_per_s=float(gb_per_s),
        bandwidth_share=float(gb_per_s / limit_gb_per_s),
        time_over_ours=float(median / np.median(samples[ours])) if ours in samples else None,
        ours=ours,
    )


def _loss(outputs):
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    if jnp.iscomplexobj(outputs):
        return jnp.sum(outputs.real**2 + outputs.imag**2)
    return jnp.sum(outputs**2)


def _compile(contestant: Contestant, direction: str, inputs) -> tuple[Callable, float, float | None]:
    """The compiled program, the seconds it took to compile, and the MiB it needs while it runs."""

    def task(*inputs):
        if direction == "forward":
            return contestant.run(*inputs)
        arguments = tuple(range(len(inputs)))
        return jax.value_and_grad(lambda *v: _loss(contestant.run(*v)), argnums=arguments)(*inputs)

    # A scan that was traced before, as another contestant or in the other direction, would compile in less.
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(task).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return program, seconds, None if memory is None else memory.temp_size_in_bytes / 2**20


def _oracle_error(benchmark, contestant, sizes, dtype, direction, program) -> float:
    """The contestant's error at a size that a step-by-step oracle can do; `program` is compiled for `sizes`."""
    small = tuple(min(size, limit) for size, limit in zip(sizes, benchmark.oracle_sizes, strict=True))
    inputs = benchmark.inputs(small, dtype)
    if small != sizes:
        program, _, _ = _compile(contestant, direction, inputs)
    # The oracle gets the rounded numbers that the contestant gets.
    wide = np.complex128 if jnp.iscomplexobj(inputs[0]) else np.float64
    outputs, gradients = benchmark.oracle(*(np.asarray(v).astype(wide) for v in inputs))
    truth = outputs if direction == "forward" else (np.sum(np.abs(outputs) ** 2), gradients)
    return _error(program(*inputs), truth)


def _error(got, want) -> float:
    """The worst over all arrays of largest |error| / largest |truth|; infinite for other shapes and for NaN."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    if [np.shape(v) for v in got] != [np.shape(v) for v in want]:
        return float("inf")
    return max(_array_error(np.asarray(g), np.asarray(w)) for g, w in zip(got, want, strict=True))


def _array_error(got, want):
    if not np.iscomplexobj(got):
        got, want = got.astype(np.float64), np.real(want).astype(np.float64)
    error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")


def _yardstick(size):
    """A compiled a * b + b over float32 arrays of `size` bytes each, and its arguments."""
    arrays = (jnp.full(size // 4, 0.5, jnp.float32), jnp.ones(size // 4, jnp.float32))
    return jax.jit(lambda a, b: a * b + b).lower(*arrays).compile(), arrays


def _time_interleaved(calls: Mapping[str, tuple[Callable, tuple]], repeats: int) -> dict[str, list[float]]:
    """Seconds per call by name: `repeats` rounds of every call once, in an order that is shuffled for each round."""
    order, rng = list(calls), random.Random(0)
    samples = {name: [] for name in order}
    for round_number in range(repeats + 1):
        rng.shuffle(order)
        for name in order:
            program, inputs = calls[name]
            start = time.perf_counter()
            outputs = jax.block_until_ready(program(*inputs))
            seconds = time.perf_counter() - start
            del outputs  # freeing is nobody's time
            if round_number > 0:  # the first round warms up
                samples[name].append(seconds)
    return samples
