"""Compiles every implementation of an op for named chips, on a machine that has none: `bench --chip v5e,h100`.

A TPU's compiler estimates the cycles of its schedule. The floor is the time in which the memory carries each input and
output once, with the backward pass also the cotangents of the outputs, which are inputs here. Each compilation is kept
in the working directory, so the same command goes on where it was stopped.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from eval.bench import shapes
from eval.bench.contestants import Benchmark, Contestant
from eval.bench.programs import DIRECTIONS
from recurrax.ops import platforms
from train.programs.compiled import compile_for
from train.programs.targets import Target
from train.workdir import computed_once

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Row:
    """What the compiler of a chip says of one implementation in both directions; None where it says nothing."""

    op: str
    sizes: tuple[int, ...]
    dtype: str
    contestant: str
    floor_ms: dict[str, float]
    """The time of the least traffic at the peak rate of the memory, by direction."""
    estimated_ms: dict[str, float | None]
    code_mib: float
    """Size of the program with the backward pass, to which the two fields below belong too."""
    temp_mib: float
    compile_s: float
    refused: str | None = None
    """Why there is no program."""


def rows(
    benchmarks: Sequence[Benchmark],
    target: Target,
    dtype: str,
    implementation: str,
    sizes: tuple[int, ...] | None,
    root: pathlib.Path,
) -> Iterator[Row]:
    """Yield the row of each of our implementations of these ops that runs on the chip, compiled once."""
    for benchmark in benchmarks:
        if dtype not in benchmark.dtypes:
            continue
        shape = shapes.ON_CHIP[benchmark.dims] if sizes is None else sizes
        for contestant in benchmark.contestants:
            is_ours = contestant.ours and contestant.name != "default"  # which is one of the others
            if not is_ours or target.chip.platform not in contestant.platforms:
                continue
            if implementation not in ("all", contestant.name):
                continue
            name = "-".join((benchmark.op.replace("/", "-"), "x".join(map(str, shape)), dtype, contestant.name))
            file = root / target.chip.key / f"{name}.json"
            yield Row(**computed_once(file, functools.partial(_fields, benchmark, contestant, target, dtype, shape)))


def _fields(*arguments):
    return dataclasses.asdict(_row(*arguments))


def _row(benchmark: Benchmark, contestant: Contestant, target: Target, dtype: str, sizes: tuple[int, ...]) -> Row:
    sharding, drawn = SingleDeviceSharding(target.devices()[0]), benchmark.draw_shapes(sizes, dtype)

    def run(*inputs):
        return _flat(contestant.run(*(x.reshape(shape) for x, (shape, _) in zip(inputs, drawn, strict=True))))

    def backward(inputs, cotangent):
        output, pullback = jax.vjp(run, *inputs)
        return output, pullback(cotangent)

    def on_chip(like):
        return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)

    inputs = [on_chip(jax.eval_shape(lambda kind=kind: _flat(jnp.zeros(*kind)))) for kind in drawn]
    output = jax.eval_shape(run, *inputs)
    programs = {"forward": (run, inputs), "backward": (backward, (inputs, on_chip(output)))}
    moved = {each: benchmark.numbers_moved(sizes, each) for each in programs}
    moved["backward"] += output.size
    floor = {name: 1e3 * each * jnp.dtype(dtype).itemsize / target.chip.bandwidth for name, each in moved.items()}
    blank = Row(benchmark.op, sizes, dtype, contestant.name, floor, dict.fromkeys(DIRECTIONS), 0.0, 0.0, 0.0)
    found = {}
    for direction, (function, arguments) in programs.items():
        try:
            with platforms.on(target.chip.platform):
                lowered = jax.jit(function).lower(*arguments)
            found[direction] = compile_for(target, lowered)
        except jax.errors.JaxRuntimeError as error:
            return dataclasses.replace(blank, refused=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    last = found[DIRECTIONS[-1]]
    return dataclasses.replace(
        blank,
        estimated_ms={
            name: None if each.estimated_seconds is None else 1e3 * each.estimated_seconds
            for name, each in found.items()
        },
        code_mib=last.code / MIB,
        temp_mib=last.temporaries / MIB,
        compile_s=last.seconds,
    )


def _flat(x):
    """Return an array (B, T, H, ...) as (B, T, H ...), in which layers make it: other layouts would cost copies."""
    return x.reshape(*x.shape[:2], -1) if x.ndim > 3 else x


def table(found: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| op | dtype | implementation | forward, ms | over the floor | with backward, ms | over the floor | code, MiB "
        "| temporaries, MiB | compile, s |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        head = f"| {row.op} | {row.dtype} | {row.contestant} |"
        if row.refused is not None:
            lines.append(f"{head} {row.refused} |" + " |" * 6)
            continue
        cells = []
        for direction in DIRECTIONS:
            estimated = row.estimated_ms[direction]
            known = estimated is not None
            cells += [f"{estimated:.2f}", f"{estimated / row.floor_ms[direction]:.1f}"] if known else ["", ""]
        cells += [f"{row.code_mib:.1f}", f"{row.temp_mib:.0f}", f"{row.compile_s:.0f}"]
        lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(lines)
