"""docs/results.md and its picture."""

import inspect
import pathlib
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from eval.bench.report import header
from eval.tasks import claims
from eval.tasks.claims import CLAIMS
from eval.tasks.results import Result
from eval.tasks.suite import SUITE


def page(results: Sequence[Result], command: str, picture: str) -> str:
    """The whole page, in Markdown."""
    sections = "\n\n".join(_section(budget, task, rows) for (budget, task), rows in grouped(results).items())
    found = "\n\n".join(text for claim in CLAIMS if (text := claims.section(claim, results)))
    verdicts = f"## Claims\n\n{found}\n\n" if found else ""
    machines = dict.fromkeys(header(result.machine) for result in results)
    where = "\n\n".join(machines)
    return f"""# What small models can do

Tasks with exact answers (`recurrax.tasks`), each with the claim that it tests, and how models that differ in the mixer
alone do on it: width and depth, a gated projection, AdamW and its settings are the same for all. Nothing was tuned for
one of them; a model that fails here with these settings may succeed with others.

Cells are the share of right answers at that length, or the squared error: the mean over seeds and, in brackets, the
least and the greatest (bands in the picture). The length that was trained on is printed bold.

    {command}

{where}

![scores by length]({picture})

{verdicts}{sections}
"""


def grouped(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """By budget and task in the suite's order; the best at the greatest length first."""
    found = {}
    for task in SUITE:
        for budget in SUITE[task]:
            rows = [r for r in results if r.task == task and r.budget == budget]
            if rows:
                is_error = rows[0].setting.task.num_classes is None
                found[budget, task] = sorted(rows, key=lambda row: row.farthest if is_error else -row.farthest)
    return found


def _section(budget: str, task: str, rows: Sequence[Result]) -> str:
    setting = rows[0].setting
    lengths = setting.lengths
    names = [f"**{length}**" if length == setting.task.length else str(length) for length in lengths]
    distance = rows[0].scores.distance is not None
    columns = ["mixer", "parameters", *names, *(f"distance at {length}" for length in lengths if distance), "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in rows:
        cells = [row.mixer, f"{row.scores.parameters:,}", *(_cell(row.scores.score[length]) for length in lengths)]
        if distance:
            cells += [_cell(row.scores.distance[length]) for length in lengths]
        lines.append("| " + " | ".join([*cells, f"{row.scores.seconds:.0f}"]) + " |")
    about = re.sub(r"\n+(Claim|Chance|Expected):", r"\n\n**\1:**", inspect.getdoc(type(setting.task)))
    what = "squared error, less is better" if setting.task.num_classes is None else "accuracy"
    return f"""## {task} ({budget})

{about}

`{setting.task}`, {setting.steps:,} steps of {setting.batch_size} sequences, width {setting.dim}, layers: \
{setting.num_layers}; {len(rows[0].seeds)} seeds, {setting.test_size} test sequences; {what}; chance \
{setting.task.chance:.3g}.

""" + "\n".join(lines)


def cells(result: Result) -> str:
    """The scores of one row, for the terminal."""
    return "  ".join(f"{length}: {_cell(values)}" for length, values in result.scores.score.items())


def _cell(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def plot(results: Sequence[Result], path: pathlib.Path) -> None:
    """One panel per task: scores over lengths, or one dot per seed where there is one length."""
    groups = grouped(results)
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    mixers = list(dict.fromkeys(result.mixer for result in results))
    style = {name: (f"C{i % 10}", "os^D"[i // 10]) for i, name in enumerate(sorted(mixers))}
    for axis, ((_, task), found) in zip(axes, groups.items(), strict=False):
        setting = found[0].setting
        if len(setting.lengths) > 1:
            _lines(axis, found, setting, style)
        else:
            _dots(axis, found, setting, style)
        axis.set_title(f"{task} ({found[0].budget})", fontsize=11)
    for axis in list(axes)[len(groups) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=70)


def _lines(axis, found, setting, style):
    for row in found:
        color, marker = style[row.mixer]
        values = [row.scores.score[length] for length in setting.lengths]
        means = [sum(each) / len(each) for each in values]
        axis.plot(setting.lengths, means, color=color, marker=marker, markersize=4, label=row.mixer)
        axis.fill_between(
            setting.lengths, *zip(*((min(v), max(v)) for v in values), strict=True), color=color, alpha=0.12
        )
    axis.axhline(setting.task.chance, color="gray", linestyle=":", linewidth=1)
    axis.axvline(setting.task.length, color="gray", linewidth=0.5)
    axis.set_xscale("log", base=2)
    axis.set_xticks(setting.lengths, [str(length) for length in setting.lengths])
    axis.set_xlabel("length (vertical line: trained; dotted: chance)", fontsize=9)
    axis.set_ylabel("accuracy")
    axis.legend(fontsize=7)


def _dots(axis, found, setting, style):
    for i, row in enumerate(reversed(found)):
        color, marker = style[row.mixer]
        values = row.scores.score[setting.lengths[0]]
        axis.plot(values, [i] * len(values), marker, color=color, markersize=5, alpha=0.7)
    axis.axvline(setting.task.chance, color="gray", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(found)), [row.mixer for row in reversed(found)], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_xlabel("squared error" if setting.task.num_classes is None else "accuracy")
