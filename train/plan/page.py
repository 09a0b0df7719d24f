"""Prints a plan as a page of text."""

import collections
import math
from collections.abc import Iterable, Iterator
from typing import Any

from train.plan.program import Plan
from train.programs.chips import CHIPS, Chip, times
from train.programs.collectives import Collective
from train.programs.compiled import USABLE


def report(plan: Plan, name: str) -> str:
    """Return the whole plan as text, per device and step."""
    cost = plan.cost
    lines = [
        *heading(name, plan, f"{plan.devices} virtual device{'s' * (plan.devices > 1)}", plan.seconds),
        *table(
            [
                ("parameters", bytes_text(plan.parameters), ""),
                ("gradients", bytes_text(plan.gradients), ""),
                ("optimizer", bytes_text(plan.optimizer), ""),
                ("activations", bytes_text(plan.activations), "saved for the backward pass"),
                (
                    "temporaries",
                    bytes_text(plan.most - plan.least),
                    "at most: the CPU's, which holds bfloat16 as float32",
                ),
                ("in all", f"{bytes_text(plan.least)} to {bytes_text(plan.most)}", ""),
            ]
        ),
        "",
        *table(
            [
                *((f"matmuls in {dtype}", f"{flops:.3g} FLOPs", "") for dtype, flops in cost.product_flops),
                ("other arithmetic", f"{cost.other_flops:.3g} FLOPs", ""),
                ("memory traffic", bytes_text(cost.traffic), "if all elementwise operations are fused"),
                ("intensity", f"{cost.intensity:.0f} FLOPs/byte", ""),
            ]
        ),
    ]
    lines += [f"counted as one iteration: the loop {loop}" for loop in cost.uncounted_loops]
    if cost.collectives:
        lines += ["", *collectives_table(cost.collectives, plan.mesh)]
    rows = [("chip", "memory", "compute", "traffic", "network", "step time", "tokens/s")]
    rows += [_on(plan, chip) for chip in CHIPS]
    lines += ["", *table(rows)]
    lines.append(
        "Step times at peak rates: all overlapped, and one after the other. Nothing here was measured on a chip."
    )
    return "\n".join(lines)


def heading(name: str, plan: Any, where: str, seconds: float) -> list[str]:
    """Return the first lines of a page about a `Plan` or a `ChipPlan`."""
    axes = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    return [
        f"{name}: {plan.parameter_count:,} parameters, {plan.tokens:,} tokens a step, {axes}",
        f"Compiled for {where} in {seconds:.0f} s; all figures are of one device and one step",
        "",
    ]


def fits(plan: Plan, chip: Chip) -> str:
    """Return whether the memory of a chip suffices: yes, perhaps (between the bounds) or no."""
    usable = USABLE * chip.memory
    return "fits" if plan.most <= usable else "may fit" if plan.least <= usable else "too small"


def bytes_text(number: float) -> str:
    """Return a number of bytes such as "1.2 GB"."""
    power = min(max(int(math.log10(max(number, 1))) // 3, 0), 4)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def seconds_text(number: float) -> str:
    """Return a time such as "12.3 ms"."""
    return f"{number:.3g} s" if number >= 1 else f"{1e3 * number:.3g} ms"


def collectives_table(collectives: Iterable[Collective], mesh: dict[str, int]) -> Iterator[str]:
    """Yield lines with one row for each kind of collective over the same axes, the largest first."""
    found = collections.defaultdict(lambda: [0.0, 0.0])
    for one in collectives:
        row = found[one.kind, " ".join(one.axes(mesh)), one.dtype]
        row[0] += one.count
        row[1] += one.sent
    rows = [("collective", "over", "count", "dtype", "bytes sent")]
    for (kind, axes, dtype), (count, sent) in sorted(found.items(), key=lambda item: -item[1][1]):
        rows.append((kind, axes, f"{count:g}", dtype, bytes_text(sent)))
    yield from table(rows)


def _on(plan, chip):
    found = times(plan.cost, chip)
    return (
        chip.name,
        fits(plan, chip),
        seconds_text(found.compute),
        seconds_text(found.memory),
        seconds_text(found.network),
        f"{seconds_text(found.overlapped)} to {seconds_text(found.in_turn)}",
        f"{plan.tokens / found.overlapped:,.0f} to {plan.tokens / found.in_turn:,.0f}",
    )


def table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows as lines with aligned columns."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
