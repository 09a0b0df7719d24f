"""What the pictures of claims and of tasks share."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.tasks.claims.base import Findings
from eval.tasks.results import Result

WIDTH, HEIGHT = 5.2, 3.9
"""Of a panel, in inches."""


def panels(figure: Figure, count: int, columns: int = 4) -> list[Axes]:
    """So many axes on an empty figure, which grows with them."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure.set_size_inches(WIDTH * columns, HEIGHT * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return axes[:count]


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A color and a marker for every name."""
    return {name: (f"C{i % 10}", "os^D"[i // 10 % 4]) for i, name in enumerate(sorted(set(names)))}


def over_length(figure: Figure, found: Findings, pairs: Sequence[tuple[str, str]]) -> None:
    """A panel per task, scores over lengths of those mixers that ran."""
    by_task = {}
    for task, mixer in pairs:
        if (task, mixer) in found.results:
            by_task.setdefault(task, []).append(found.results[task, mixer])
    style = styles(result.mixer for results in by_task.values() for result in results)
    for axis, (task, results) in zip(panels(figure, len(by_task)), by_task.items(), strict=True):
        lines(axis, results, style)
        axis.set_title(task, fontsize=11)


def lines(axis: Axes, results: Sequence[Result], style: dict[str, tuple[str, str]]) -> None:
    """Means over seeds by length, with a band from the least to the greatest."""
    setting = results[0].setting
    for row in results:
        color, marker = style[row.mixer]
        values = [row.scores.score[length] for length in setting.lengths]
        means = [sum(each) / len(each) for each in values]
        axis.plot(setting.lengths, means, color=color, marker=marker, markersize=4, label=row.mixer)
        low, high = zip(*((min(each), max(each)) for each in values), strict=True)
        axis.fill_between(setting.lengths, low, high, color=color, alpha=0.12)
    axis.axhline(setting.task.chance, color="gray", linestyle=":", linewidth=1)
    axis.axvline(setting.task.length, color="gray", linewidth=0.5)
    axis.set_xscale("log", base=2)
    axis.set_xticks(setting.lengths, [str(length) for length in setting.lengths])
    axis.minorticks_off()
    axis.set_xlabel("length (vertical line: trained; dotted: chance)", fontsize=9)
    axis.set_ylabel("accuracy")
    axis.legend(fontsize=7)


def dots(axis: Axes, results: Sequence[Result], style: dict[str, tuple[str, str]]) -> None:
    """Where there is one length: a dot per seed, a row per mixer."""
    setting = results[0].setting
    for i, row in enumerate(reversed(results)):
        color, marker = style[row.mixer]
        values = row.scores.score[setting.lengths[0]]
        axis.plot(values, [i] * len(values), marker, color=color, markersize=5, alpha=0.7)
    axis.axvline(setting.task.chance, color="gray", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(results)), [row.mixer for row in reversed(results)], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_xlabel("squared error" if setting.task.num_classes is None else "accuracy")
