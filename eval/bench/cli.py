"""Provides the command line of `python -m eval bench`."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Sequence

import tyro
from rich.console import Console

from eval.bench import measure, on_chip, programs, report
from eval.bench.contestants import BENCHMARKS, Benchmark, Contestant
from eval.page import write_page
from recurrax import checks
from train.paths import local_path
from train.plan import use_virtual_devices
from train.programs.targets import target


@dataclasses.dataclass(frozen=True)
class Bench:
    """Time an op against what users would write without it; contestants with wrong results are not timed.

    Every contestant is compared with a float64 oracle and with our reference before it is timed; one that computes
    another function is marked. Exit code 0: all were right; 1: a contestant was wrong; 2: a flag was invalid.
    """

    op: str = "diagonal_scan"
    """Name of the op, with its decay where there is a choice: linear_attention, linear_attention/scalar or
    linear_attention/channel; delta_rule likewise; delta_product/scalar; dplr_rule/channel. With --chip also "all"."""
    shape: str = "all"
    """Sizes such as 8,2048,512, the name of a shape, or "all": each of the op's named shapes."""
    direction: str = "both"
    """"forward"; "backward", which times the output and the gradients of sum |output|^2 together; or "both"."""
    dtype: str = "float32"
    """Dtype of the inputs and the output."""
    implementation: str = "all"
    """Name of one of our implementations, or "all". Other contestants always run; ratios are to our first one."""
    repeats: int = 21
    """Timed calls of each contestant; after ten seconds in total, a contestant is called no more once it has three."""
    workdir: str | None = None
    """Directory in which rows are appended to bench.jsonl and a PNG is drawn; None: nothing is written."""
    chip: str | None = None
    """Names of chips, such as v5e or v5e,v6e,h100: nothing is run; our implementations are compiled for each of them
    (extra aot), and what the compilers say is written to WORKDIR/bench.md. Needs --workdir, where each compilation is
    kept; --repeats and --direction have no meaning."""
    output: str | None = None
    """With --chip: the Markdown file to write instead of WORKDIR/bench.md."""


def main(args: Sequence[str], benchmarks: Sequence[Benchmark] = BENCHMARKS) -> int:
    """Run `bench` with these arguments and return the exit code."""
    config = tyro.cli(Bench, args=list(args), prog="python -m eval bench")
    if config.chip is not None:
        return compile_on_chips(config, list(args), benchmarks)
    try:
        benchmark, contestants, sizes, directions = resolve(config, benchmarks)
        folder = _folder(config.workdir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # without a terminal, rich would cut lines to 80 columns
    where = report.machine()
    console.print(report.header(where), highlight=False)
    wrong = False
    for shape in sizes:
        tables = []
        for direction in directions:
            rows = measure.table(benchmark, contestants, shape, config.dtype, direction, config.repeats)
            report.print_table(rows, benchmark.dims, console)
            wrong |= any(row.status == "wrong" for row in rows)
            tables.append(rows)
            if folder is not None:
                report.append_jsonl(rows, where, folder / "bench.jsonl")
        if folder is not None:
            console.print(f"wrote {report.plot(tables, where, folder)}", highlight=False)
    return 1 if wrong else 0


def compile_on_chips(config: Bench, arguments: list[str], benchmarks: Sequence[Benchmark]) -> int:
    """Compile for each chip, write the page, and return the exit code.

    Raises:
      ValueError: an unknown name, malformed sizes, no workdir, or a compiler that is not installed.
    """
    targets = [target(name) for name in config.chip.split(",")]
    for each in targets:
        each.check_installed()
    if config.workdir is None:
        raise ValueError("--workdir DIR is missing: where compilations are kept")
    by_op = {benchmark.op: benchmark for benchmark in benchmarks}
    chosen = list(benchmarks) if _choose("op", config.op, (*by_op, "all")) == "all" else [by_op[config.op]]
    if config.op == "all" and config.shape != "all":
        raise ValueError(f"--op all has --shape all, the sizes of each op, got {config.shape!r}")
    sizes = None if config.shape == "all" else _sizes(config.shape, chosen[0])[0]
    kinds = {dtype for benchmark in chosen for dtype in benchmark.dtypes}
    dtypes = [_choose("dtype", dtype, sorted(kinds)) for dtype in config.dtype.split(",")]
    ours = [each.name for benchmark in chosen for each in benchmark.contestants if each.ours]
    _choose("implementation", config.implementation, ("all", *dict.fromkeys(ours)))
    use_virtual_devices(1)

    def make(root):
        parts = []
        for each in targets:
            found = []
            for dtype in dtypes:
                for row in on_chip.rows(chosen, each, dtype, config.implementation, sizes, root):
                    print(each.chip.name, row, flush=True)
                    found.append(row)
            parts.append(f"## {each.chip.name}\n\n{on_chip.table(found)}")
        return "# Ops, compiled for accelerators", "\n\n".join(parts)

    return write_page("bench", arguments, config, make)


def resolve(
    config: Bench, benchmarks: Sequence[Benchmark]
) -> tuple[Benchmark, list[Contestant], list[tuple[int, ...]], list[str]]:
    """Return the benchmark, the contestants with ours first, the shapes and the directions that the flags select.

    Raises:
      ValueError: an unknown name (the message lists the choices), malformed sizes, fewer than one repeat.
    """
    by_op = {benchmark.op: benchmark for benchmark in benchmarks}
    benchmark = by_op[_choose("op", config.op, by_op)]
    _choose("dtype", config.dtype, benchmark.dtypes)
    direction = _choose("direction", config.direction, (*programs.DIRECTIONS, "both"))
    ours = [contestant.name for contestant in benchmark.contestants if contestant.ours and contestant.can_run()]
    implementation = _choose("implementation", config.implementation, ("all", *ours))
    if config.repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {config.repeats}")
    contestants = [
        contestant
        for contestant in benchmark.contestants
        if contestant.can_run() and (not contestant.ours or implementation in ("all", contestant.name))
    ]
    directions = list(programs.DIRECTIONS) if direction == "both" else [direction]
    return benchmark, contestants, _sizes(config.shape, benchmark), directions


def _sizes(shape: str, benchmark: Benchmark) -> list[tuple[int, ...]]:
    named = {known.name: known.sizes for known in benchmark.shapes}
    parts = shape.strip("()").split(",")
    if len(parts) == 1:
        name = _choose("shape", shape, ("all", *named), f", or give the sizes {','.join(benchmark.dims)}")
        return list(named.values()) if name == "all" else [named[name]]
    if len(parts) != len(benchmark.dims) or not all(part.strip().isdecimal() and int(part) for part in parts):
        choices = ", ".join(f"{name} = {','.join(map(str, sizes))}" for name, sizes in named.items())
        raise ValueError(
            f"shape must be {len(benchmark.dims)} positive numbers {','.join(benchmark.dims)}, or all, or one of "
            f"{choices}; got {shape!r}"
        )
    return [tuple(map(int, parts))]


def _choose(what: str, value: str, choices: Iterable[str], also: str = "") -> str:
    choices = list(choices)
    if value not in choices:
        hint = checks.hint(value, choices)
        raise ValueError(f"unknown {what} {value!r}{hint}; choose one of {', '.join(map(repr, choices))}{also}")
    return value


def _folder(workdir: str | None) -> pathlib.Path | None:
    if workdir is None:
        return None
    folder = local_path("workdir", workdir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the working directory {folder} is a file; give a directory, or a name not in use")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
