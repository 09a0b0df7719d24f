"""Writes the results of a benchmark: a table on the screen, JSON lines and a bar chart in a directory."""

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Sequence

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from eval.bench.measure import Row
from train.workdir import versions

COLUMNS = (
    *("ms", "quartiles", "calls", "x ours", "GB/s", "of a*b+b", "GFLOP/s", "of matmul"),
    *("temp MiB", "compile s", "error"),
)
TITLES = (("forward", "forward"), ("backward", "forward+backward"))


def machine() -> dict:
    """Return the CPU model and cores, the device, the versions of jax and jaxlib, and the commit of this machine."""
    what = versions()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": f"{what['devices']['count']} x {what['devices']['kind']} ({what['devices']['platform']})",
        "jax": what["packages"]["jax"],
        "jaxlib": what["packages"]["jaxlib"],
        "git": what["git"],
    }


def _cpu_model():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def header(where: dict) -> str:
    """Return `machine()` as two lines of text."""
    return (
        f"{where['cpu']}, {where['cores']} cores, device {where['device']}\n"
        f"jax {where['jax']}, jaxlib {where['jaxlib']}, {commit(where['git'])}"
    )


def commit(git: dict | None) -> str:
    """Return the commit in `versions()["git"]` as text."""
    return "no commit" if git is None else f"commit {git['commit'][:12]}{' + changes' if git['dirty'] else ''}"


def print_table(rows: Sequence[Row], dims: Sequence[str], console: Console) -> None:
    """Print the rows of one table, in Markdown if the output is not a terminal."""
    first = rows[0]
    sizes = " ".join(f"{dim}={size}" for dim, size in zip(dims, first.shape, strict=True))
    title = f"{first.op} {dict(TITLES)[first.direction]}, {sizes}, {first.dtype}"
    console.print(f"\n{title}: medians of interleaved calls", style="bold")
    view = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN)
    view.add_column("contestant", no_wrap=True)
    for column in COLUMNS:
        view.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        view.add_row(*_cells(row), style={"wrong": "red", "limit": "dim", "skipped": "dim"}.get(row.status))
    console.print(view)
    for row in rows:
        if row.status == "wrong":
            console.print(
                f"{row.contestant} is wrong and was not timed: error {row.oracle_error:.2g} against the oracle, "
                f"{row.reference_error:.2g} against the reference, where {row.tolerance:.0e} is allowed",
                style="red",
            )
        if row.status == "skipped":
            console.print(f"{row.contestant} was skipped: {row.reason}", highlight=False)


def _cells(row):
    def number(value, form):
        return "" if value is None else format(value, form)

    error = None if row.oracle_error is None else max(row.oracle_error, row.reference_error)
    quartiles = f"{row.quartile_1_ms:.2f}-{row.quartile_3_ms:.2f}" if row.median_ms is not None else ""
    return (
        row.contestant + (" (ours)" if row.is_ours else " (another function)" if row.status == "other" else ""),
        {"wrong": "WRONG", "skipped": "skipped"}.get(row.status) or number(row.median_ms, ".2f"),
        quartiles,
        number(row.repeats or None, "d"),
        number(row.time_over_ours, ".2f"),
        number(row.gb_per_s, ".1f"),
        number(row.bandwidth_share, ".0%"),
        number(row.gflop_per_s, ".1f"),
        number(row.matmul_share, ".0%"),
        number(row.temp_mib, ".1f"),
        number(row.compile_s, ".2f"),
        number(error, ".1e"),
    )


def append_jsonl(rows: Sequence[Row], where: dict, path: pathlib.Path) -> None:
    """Append one JSON object per row, with the machine on which it was measured."""
    with open(path, "a") as file:
        for row in rows:
            file.write(json.dumps({**dataclasses.asdict(row), "machine": where}) + "\n")


def plot(tables: Sequence[Sequence[Row]], where: dict, folder: pathlib.Path) -> pathlib.Path:
    """Plot the tables of one shape and dtype as bar charts, one below the other; return the path of the PNG."""
    figure = Figure(figsize=(9, 0.8 + 0.4 * sum(len(rows) + 2 for rows in tables)), layout="constrained")
    axes = figure.subplots(len(tables), squeeze=False, height_ratios=[len(rows) for rows in tables])[:, 0]
    for axis, rows in zip(axes, tables, strict=True):
        _bars(axis, rows)
    first = tables[0][0]
    size = "x".join(map(str, first.shape))
    figure.suptitle(f"{first.op} {size} {first.dtype}\n{header(where)}", fontsize=9)
    path = folder / f"bench-{first.op.replace('/', '-')}-{size}-{first.dtype}.png"
    figure.savefig(path, dpi=120)
    return path


def _bars(axis, rows):
    for position, row in enumerate(rows):
        if row.median_ms is None:
            text, color = (" wrong, not timed", "tab:red") if row.status == "wrong" else (" skipped", "tab:gray")
            axis.annotate(text, (0, position), va="center", color=color, fontsize=8)
            continue
        colors = {"limit": "tab:gray", "other": "tab:olive"}
        color = "tab:blue" if row.is_ours else colors.get(row.status, "tab:orange")
        whiskers = [[row.median_ms - row.quartile_1_ms], [row.quartile_3_ms - row.median_ms]]
        axis.barh(position, row.median_ms, xerr=whiskers, color=color, ecolor="black")
        ratio = "" if row.time_over_ours is None else f", {row.time_over_ours:.2f}x {row.ours}"
        axis.annotate(f"  {row.median_ms:.2f} ms{ratio}", (row.quartile_3_ms, position), va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row.contestant for row in rows])
    axis.invert_yaxis()
    axis.margins(x=0.3)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"{dict(TITLES)[rows[0].direction]}, ms (median, quartiles)")
