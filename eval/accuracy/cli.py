"""Provides the command line of `python -m eval accuracy`."""

import dataclasses
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Sequence

import tyro

from eval.accuracy import bars, page
from eval.accuracy.cases import CASES, DTYPES, Case
from eval.accuracy.measure import Group, groups, measure
from eval.accuracy.regimes import REGIMES
from eval.bench import report
from recurrax import checks
from train.paths import local_path


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Compare every op and its gradients with a float64 oracle, in regimes where precision could be lost.

    Exit code 0: every error is within its bar; 1: some errors exceed it and are listed; 2: a flag was invalid.
    """

    op: str = "all"
    """Name of the op, or "all"."""
    dtype: str = "all"
    """Dtype of the inputs: float32, which also measures diagonal_scan in complex64; bfloat16; or "all"."""
    regime: str = "all"
    """Name of the input regime, or "all"."""
    implementation: str = "all"
    """Name of the implementation, or "all". Ops without an implementation of this name are skipped."""
    length: int = 4096
    """Sequence length in tokens."""
    long: int = 16_384
    """Sequence length in tokens in the regime "long"."""
    output: str = "docs/accuracy.md"
    """Markdown file to write."""


def main(args: Sequence[str], cases: Sequence[Case] = CASES) -> int:
    """Run `accuracy` with these arguments and return the exit code."""
    config = tyro.cli(Accuracy, args=list(args), prog="python -m eval accuracy")
    try:
        todo = resolve(config, cases)
        path = _writable(config.output)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = report.header(report.machine())  # read before measuring: the working tree may change during the run
    start, rows = time.monotonic(), []
    for number, (group, found) in enumerate(zip(todo, measure(todo), strict=True)):
        worst = max(error for row in found for kind in (row.outputs, row.gradients) for error in kind.values())
        where = f"{group.case.op}, {group.dtype}, variant {group.variant}, T = {group.length:,}"
        print(f"{number + 1:>3}/{len(todo)}  {where}: at most {worst:.1e}", flush=True)
        rows += found
    command = shlex.join(["python", "-m", "eval", "accuracy", *args])
    lengths = (config.length, config.long)
    path.write_text(page.page(rows, cases, lengths, command, machine))
    print(f"wrote {path} after {time.monotonic() - start:.0f} s")
    broken = bars.broken(rows)
    for found in broken:
        print(f"above its bar: {found}", file=sys.stderr)
    return 1 if broken else 0


def resolve(config: Accuracy, cases: Sequence[Case]) -> list[Group]:
    """Return the groups of measurements that the flags select.

    Raises:
      ValueError: an unknown name (the message lists the choices), a length below 1, or nothing to measure.
    """
    by_op = {case.op: case for case in cases}
    chosen = [by_op[op] for op in _choose("op", config.op, by_op)]
    dtypes = _choose("dtype", config.dtype, DTYPES)
    there = [
        regime
        for regime in REGIMES
        if any(case.has(variant, dtype, regime) for case in chosen for variant in case.variants for dtype in dtypes)
    ]
    regimes = _choose("regime", config.regime, [regime.name for regime in there])
    names = dict.fromkeys(name for case in chosen for name in case.implementations)
    implementations = _choose("implementation", config.implementation, names)
    for name in ("length", "long"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    lengths = (config.length, config.long)
    todo = groups(chosen, dtypes, [regime for regime in there if regime.name in regimes], implementations, lengths)
    if not todo:
        raise ValueError(f"nothing has both regime {config.regime!r} and implementation {config.implementation!r}")
    return todo


def _choose(what: str, value: str, choices: Iterable[str]) -> list[str]:
    """Return `value` alone, or all choices if it is "all". Raises ValueError if it is neither."""
    choices = list(choices)
    if value == "all":
        return choices
    if value not in choices:
        hint = checks.hint(value, choices)
        raise ValueError(f"unknown {what} {value!r}{hint}; choose one of 'all', {', '.join(map(repr, choices))}")
    return [value]


def _writable(output: str) -> pathlib.Path:
    path = local_path("output", output)
    if path.is_dir():
        raise ValueError(f"the output {path} is a directory; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the directory of {path}: {error}") from None
    return path
