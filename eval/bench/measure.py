"""Verifies every contestant, then times those that are right, all in one process and in shuffled order.

Medians of interleaved samples can be compared on a machine that others use too: a slow second slows everyone. Compile
time is measured apart. Two yardsticks are timed in the same interleaving, for the bandwidth that XLA itself reaches
with nothing but reading and writing, over as many bytes as one input takes, and for its rate of multiplying matrices.
"""

import dataclasses
import random
import time
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from eval.bench.contestants import Benchmark, Contestant
from eval.bench.programs import MATMUL_SIZE, Program, bandwidth_yardstick, compile_jax, matmul_yardstick
from eval.bench.verify import Examination

BANDWIDTH, MATMUL = "a * b + b", f"{MATMUL_SIZE}^3 matmul"
LEAST_SAMPLES, PATIENCE_S = 3, 10.0
SETTLING_BYTES = 2**16  # few enough to leave the caches as they are, too many for XLA to compute in the calling thread


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of one contestant in one table; values that were not measured are None.

    Attributes:
      status: "ok", "wrong" (not timed), "skipped" (not run, for the `reason`), "other" (computes another function, and
        is compared with nothing), or "limit" (a yardstick).
      repeats: its timed calls.
      oracle_error: largest |error| / largest |truth| against the float64 oracle at a reduced size; the worst of
        the output and, backward, all gradients.
      reference_error: the same against our reference implementation at the timed size.
      tolerance: what either error may be.
      median_ms, quartile_1_ms, quartile_3_ms: of `repeats` calls.
      compile_s: tracing, lowering and compiling.
      temp_mib: the memory that the compiled program needs beside its arguments and results, 2^20 bytes.
      gb_per_s: the least traffic that the task needs, over the median time, 10^9 bytes.
      bandwidth_share: gb_per_s over that of the yardstick.
      gflop_per_s: the multiplications and additions that the step-by-step form needs, over the median time, 10^9.
      matmul_share: gflop_per_s over that of the yardstick.
      time_over_ours: the median over that of the row `ours`: above 1, ours is faster.
    """

    op: str
    direction: str
    shape: tuple[int, ...]
    dtype: str
    contestant: str
    is_ours: bool
    status: str
    reason: str | None = None
    repeats: int = 0
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
    gflop_per_s: float | None = None
    matmul_share: float | None = None
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
    """Return one row per contestant, the first of which is the `ours` of the ratios, and those of the yardsticks.

    "backward" is the outputs and the gradients of sum |output|^2 with respect to all inputs: forward and backward.
    """
    examination = Examination(benchmark, sizes, dtype, direction)
    rows, programs = [], {}
    for contestant in contestants:
        blank = Row(benchmark.op, direction, sizes, dtype, contestant.name, contestant.ours, "skipped")
        row, program = _examined(blank, contestant, examination)
        rows.append(row)
        if row.status in ("ok", "other"):
            programs[row.contestant] = program
    input_bytes = examination.inputs[0].nbytes
    del examination
    traffic = benchmark.numbers_moved(sizes, direction) * jnp.dtype(dtype).itemsize
    work = {row.contestant: (traffic, benchmark.operations(sizes, direction)) for row in rows if row.status == "ok"}

    programs[BANDWIDTH], moved = bandwidth_yardstick(input_bytes)
    programs[MATMUL], operations = matmul_yardstick(dtype)
    work |= {BANDWIDTH: (moved, None), MATMUL: (None, operations)}
    rows += [Row(benchmark.op, direction, sizes, dtype, name, False, "limit") for name in (BANDWIDTH, MATMUL)]

    samples = _time_interleaved(programs, repeats)
    return [_with_times(row, samples, work, contestants[0].name) for row in rows]


def _examined(row, contestant, examination) -> tuple[Row, Program | None]:
    """Return a contestant's row before it is timed, and its program."""
    if reason := contestant.refuses(row.shape):
        return dataclasses.replace(row, reason=reason), None
    tolerance = max(contestant.tolerance, examination.tolerance)
    try:
        program = contestant.start(contestant.run, row.direction, examination.inputs)
        row = dataclasses.replace(row, compile_s=program.compile_s, temp_mib=program.temp_mib)
        if contestant.other:
            return dataclasses.replace(row, status="other"), program
        errors = examination.oracle_error(contestant, program), examination.reference_error(program)
    except Exception as error:
        if contestant.start is compile_jax:  # none of these has an excuse
            raise
        return dataclasses.replace(row, reason=f"{type(error).__name__}: {error}"), None
    status = "ok" if max(errors) <= tolerance else "wrong"
    row = dataclasses.replace(row, oracle_error=errors[0], reference_error=errors[1], tolerance=tolerance)
    return dataclasses.replace(row, status=status), program


def _with_times(row, samples, work, ours) -> Row:
    if row.contestant not in samples:
        return row
    medians = {name: float(np.median(seconds)) for name, seconds in samples.items()}
    median = medians[row.contestant]
    first, third = np.quantile(samples[row.contestant], [0.25, 0.75])

    def rate(which, limit):
        """Return the rate in 10^9 per second, and its share of the yardstick's rate."""
        amount = work.get(row.contestant, (None, None))[which]
        if amount is None:
            return None, None
        return amount / median / 1e9, amount / median / (work[limit][which] / medians[limit])

    gb_per_s, bandwidth_share = rate(0, BANDWIDTH)
    gflop_per_s, matmul_share = rate(1, MATMUL)
    return dataclasses.replace(
        row,
        repeats=len(samples[row.contestant]),
        median_ms=1e3 * median,
        quartile_1_ms=1e3 * float(first),
        quartile_3_ms=1e3 * float(third),
        gb_per_s=gb_per_s,
        bandwidth_share=bandwidth_share,
        gflop_per_s=gflop_per_s,
        matmul_share=matmul_share,
        time_over_ours=median / medians[ours] if ours in medians else None,
        ours=ours,
    )


def _time_interleaved(programs: Mapping[str, Program], repeats: int) -> dict[str, list[float]]:
    """Return the seconds per call by name: `repeats` rounds that make every call once, each in a shuffled order.

    Who has used up `PATIENCE_S` is called no more, once there are `LEAST_SAMPLES`. XLA's CPU back end says that a
    program is done and then frees its temporary memory, 0.2 s for a GiB: a program between any two waits for that.
    """
    order, rng = list(programs), random.Random(0)
    settle, _ = bandwidth_yardstick(SETTLING_BYTES)
    samples = {name: [] for name in order}
    for round_number in range(repeats + 1):
        rng.shuffle(order)
        for name in order:
            taken = samples[name]
            if len(taken) >= LEAST_SAMPLES and sum(taken) > PATIENCE_S:
                continue
            settle.call()
            start = time.perf_counter()
            outputs = programs[name].call()
            seconds = time.perf_counter() - start
            del outputs  # freeing is nobody's time
            if round_number > 0:  # the first round warms up
                taken.append(seconds)
    return samples
