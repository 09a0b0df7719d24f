"""docs/results.md and its pictures."""

import inspect
import itertools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from eval.bench.report import commit, header
from eval.tasks import results as stored
from eval.tasks.claims import CLAIMS, Claim, Findings, base, verdict
from eval.tasks.claims.pictures import dots, lines, panels, styles
from eval.tasks.measure import graded, test_batches
from eval.tasks.results import Measurement, Result
from eval.tasks.suite import BUDGETS, SUITE


def write(root: pathlib.Path, output: pathlib.Path, command: str) -> list[pathlib.Path]:
    """Writes the page of all that the folder holds, its pictures into a folder of its name beside it; returns all."""
    rows = [stored.load(file) for file in stored.files(root)]
    measured = [stored.load_measurement(file) for file in stored.measurement_files(root)]
    pictures = output.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    written = [output]

    def picture(name, draw):
        figure = Figure(layout="constrained")
        draw(figure)
        figure.savefig(pictures / f"{name}.png", dpi=70)
        written.append(pictures / f"{name}.png")
        return f"![{name}]({pictures.name}/{name}.png)"

    output.write_text(page(rows, measured, command, picture))
    return written


def page(rows: Sequence[Result], measured: Sequence[Measurement], command: str, picture) -> str:
    """The whole page, in Markdown; `picture(name, draw)` makes one and returns the Markdown that shows it."""
    claims = [
        text
        for budget in BUDGETS
        for claim in CLAIMS.values()
        if (text := _claim(claim, findings(budget, rows, measured), picture))
    ]
    mixed = len({commit(row.machine["git"]) for row in [*rows, *measured]}) > 1
    sections = [_section(budget, task, each, mixed) for (budget, task), each in grouped(rows).items()]
    machines = dict.fromkeys(header(row.machine) for row in [*rows, *measured])
    overview = picture("tasks", lambda figure: plot(figure, rows)) if rows else ""
    parts = [HEAD, f"    {command}", *machines]
    parts += ["## Claims", *claims] if claims else []
    parts += ["## Tasks", ABOUT_TASKS, overview, *sections] if rows else []
    return "\n\n".join(parts) + "\n"


HEAD = """# What small models can do

What the field claims of its recurrences, run small: for each claim what theory predicts and what was measured, then the
tables of all tasks. Models of a task differ in the mixer alone: width and depth, what follows the mixer, AdamW and its
settings are the same for all. A setting was chosen where somebody learns the task in minutes, and then kept for all; a
model that fails here with these settings may succeed with others."""

ABOUT_TASKS = """Tasks with exact answers (`recurrax.tasks`), each with the claim that it tests. Cells are the share of
right answers at that length, or the squared error: the mean over seeds and, in brackets, the least and the greatest
(bands in the picture). The length that was trained on is printed bold."""


def findings(budget: str, rows: Sequence[Result], measured: Sequence[Measurement]) -> Findings:
    """Those of one budget."""
    return Findings(
        budget,
        {(row.task, row.mixer): row for row in rows if row.budget == budget},
        {found.experiment: found for found in measured if found.budget == budget},
    )


def _claim(claim: Claim, found: Findings, picture) -> str:
    """What is claimed, what was found, and the verdict; nothing if what ran can decide nothing."""
    checks = claim.compare(found)
    if not checks:
        return ""
    missing = claim.missing(found)
    name = claim.name if found.budget == "small" else f"{claim.name}-{found.budget}"
    agree = sum(check.agrees for check in checks)
    parts = [
        f"### {claim.title}: {verdict(checks)}{' so far' * bool(missing)}",
        f"{claim.statement} ({claim.paper})",
        f"    python -m eval tasks --workdir runs/{claim.name} --claim {claim.name} --budget {found.budget}",
        f"{agree} of {len(checks)} predictions came true.{f' {missing} of its runs are missing.' if missing else ''}",
        base.table(checks),
    ]
    if claim.tried and agree < len(checks):
        parts.append(f"**What was tried:** {claim.tried}")
    if claim.draw:
        parts.append(picture(name, lambda figure: claim.draw(figure, found)))
    return "\n\n".join(parts)


def grouped(rows: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """By budget and task in the suite's order; the best at the greatest length first."""
    found = {}
    for task, budget in itertools.product(SUITE, BUDGETS):
        chosen = [row for row in rows if row.task == task and row.budget == budget]
        if chosen:
            is_error = chosen[0].setting.task.num_classes is None
            found[budget, task] = sorted(chosen, key=lambda row: row.farthest if is_error else -row.farthest)
    return found


def _section(budget: str, task: str, rows: Sequence[Result], mixed: bool) -> str:
    setting = rows[0].setting
    lengths = setting.lengths
    names = [f"**{length}**" if length == setting.task.length else str(length) for length in lengths]
    extra = [name for name in ("distance", *(("nats",) if setting.shows_nats else ())) if _has(rows[0], name)]
    columns = ["mixer", "parameters", *names, *(f"{name} at {length}" for name in extra for length in lengths)]
    columns += ["seeds", "seconds", *(("code",) if mixed else ())]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in rows:
        cells = [row.mixer, f"{row.scores.parameters:,}", *(_cell(row.scores.score[length]) for length in lengths)]
        cells += [_cell(getattr(row.scores, name)[length]) for name in extra for length in lengths]
        cells += [str(len(row.seeds)), f"{row.scores.seconds:.0f}"]
        cells += [commit(row.machine["git"])] if mixed else []
        lines.append("| " + " | ".join(cells) + " |")
    for name, found in known_answers(setting).items():
        cells = [f"*{name}*", "", *(f"{found[length]:.3f}" for length in lengths)]
        lines.append("| " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |")
    about = re.sub(r"\n+(Claim|Chance|Expected):", r"\n\n**\1:**", inspect.getdoc(type(setting.task)))
    what = "squared error, less is better" if setting.task.num_classes is None else "accuracy"
    return f"""### {task} ({budget})

{about}

`{setting.task}`, {setting.steps:,} steps of {setting.batch_size} sequences, width {setting.dim}, layers: \
{setting.num_layers}; {setting.test_size} test sequences; {what}; chance {setting.task.chance:.3g}.

""" + "\n".join(lines)


def known_answers(setting) -> dict[str, dict[int, float]]:
    """Scores by length of the task's own baselines, on the sequences of the tests."""
    found = {}
    for length in setting.lengths:
        sums, count = {}, 0.0
        for batch in test_batches(setting.task.at(length), setting.test_size, setting.batch_size):
            for name, answers in setting.task.baselines(batch).items():
                outputs = np.broadcast_to(answers[None, :, None, None], (1, *batch.targets.shape, 1))
                sums[name] = sums.get(name, 0.0) + graded(outputs, batch)["score"][0]
            count += batch.weights.sum()
        for name, value in sums.items():
            found.setdefault(name, {})[length] = value / count
    return found


def _has(row: Result, name: str) -> bool:
    return getattr(row.scores, name) is not None


def cells(result: Result) -> str:
    """The scores of one row, for the terminal."""
    return "  ".join(f"{length}: {_cell(values)}" for length, values in result.scores.score.items())


def _cell(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def plot(figure: Figure, rows: Sequence[Result]) -> None:
    """One panel per task: scores over lengths, or one dot per seed where there is one length."""
    groups, style = grouped(rows), styles(row.mixer for row in rows)
    for axis, ((budget, task), found) in zip(panels(figure, len(groups)), groups.items(), strict=True):
        (lines if len(found[0].setting.lengths) > 1 else dots)(axis, found, style)
        axis.set_title(f"{task} ({budget})", fontsize=11)
