"""Compares recipes, which are presets with other settings, trained for equal times: `python -m eval recipes`.

A recipe is written as the words of a command line. Recipes of one group are compared with the first of it: each is
trained for as many steps as fit into the time that the first one takes, by speeds that are measured before, and its
schedule is as long as its training.
"""

import dataclasses
import pathlib
import shlex

import tyro

from eval.compare.measure import training_speed
from eval.page import write_page
from recurrax import checks
from train import expressions, loop, presets
from train.config import TrainConfig
from train.metrics import read_metrics
from train.workdir import computed_once


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A preset with settings that are expressions."""

    preset: str
    words: tuple[str, ...] = ()

    def config(self) -> TrainConfig:
        """Return the config. Raises ValueError if a word is not such a setting."""
        config, rest = expressions.apply(presets.find(self.preset)(), self.words)
        if rest:
            raise ValueError(f"a recipe has expressions alone, got {shlex.join(rest)}")
        return config

    def __str__(self):
        return shlex.join(("python", "-m", "train", self.preset, *self.words))


def _digits(pattern: str, groups: str) -> Recipe:
    schedule = "Cosine(warmup_steps=100, decay_steps=1000, final_fraction=0.02)"
    optimizer = f"AdamW(learning_rate=0.004, schedule={schedule}, groups={groups})"
    return Recipe("digits", ("--model.pattern", pattern, "--optimizer", optimizer))


GROUPS: dict[str, tuple[Recipe, ...]] = {
    "optimizers": (
        Recipe("default"),
        *(
            Recipe("default", ("--optimizer", f"{name}, schedule=Cosine(100, 2400, 0.02))"))
            for name in ("Muon(learning_rate=0.006", "Muon(learning_rate=0.012", "Lion(learning_rate=0.001")
        ),
        Recipe("default", ("--optimizer", "ScheduleFreeAdamW(learning_rate=0.006)")),
    ),
    "S4D": (_digits("S4D(state_dim=16)", "()"), _digits("S4D(state_dim=16)", '("recurrence=0.1",)')),
    "S5": (_digits("S5(state_dim=64)", "()"), _digits("S5(state_dim=64)", '("recurrence=0.1",)')),
}


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Train recipes for equal times and write a table.

    The same command resumes an interrupted comparison.
    """

    workdir: str
    """Directory of the runs, one folder each."""
    groups: tuple[str, ...] = tuple(GROUPS)
    """Groups of recipes to compare."""
    steps: int | None = None
    """Steps of the first recipe of each group; None: those of its preset."""
    output: str | None = None
    """Markdown file to write; None: WORKDIR/recipes.md."""

    def __post_init__(self):
        checks.positive(self, "steps")
        for name in self.groups:
            checks.choice("group", name, GROUPS)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    recipe: Recipe
    steps: int
    seconds: float
    """Seconds of training, without compilation."""
    held_out: str
    """The held-out means after the last step, as the objective shows them."""


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """Return the config with this number of steps, and with a schedule of this length if it ends at all."""
    optimizer, every = config.optimizer, max(steps // 4, 1)
    if optimizer.schedule.last_step is not None:
        warmup = min(optimizer.schedule.warmup_steps, steps // 4)
        schedule = dataclasses.replace(optimizer.schedule, warmup_steps=warmup, decay_steps=steps)
        optimizer = dataclasses.replace(optimizer, schedule=schedule)
    evaluation = dataclasses.replace(config.evaluation, every=steps)
    return dataclasses.replace(
        config,
        steps=steps,
        optimizer=optimizer,
        evaluation=evaluation,
        checkpoint=dataclasses.replace(config.checkpoint, every=every, keep=1),
    )


def measured(group: str, root: pathlib.Path) -> dict[str, float]:
    """Return tokens per second of training by recipe, measured once: an interrupted comparison finds them again."""

    def compute():
        return {str(recipe): training_speed(recipe.config()) for recipe in GROUPS[group]}

    return computed_once(root / f"{group}-speeds.json", compute)


def compare(group: str, root: pathlib.Path, steps: int | None) -> list[Row]:
    """Train all recipes of a group, and return their rows in order.

    Raises:
      FloatingPointError: the loss or the gradient of a recipe was not finite.
      KeyboardInterrupt: a signal stopped the training; the run is saved.
    """
    configs, rows = [recipe.config() for recipe in GROUPS[group]], []
    steps, speeds = configs[0].steps if steps is None else steps, measured(group, root)
    for i, (recipe, config) in enumerate(zip(GROUPS[group], configs, strict=True)):
        speed = speeds[str(recipe)]
        count = max(round(steps * speed / speeds[str(GROUPS[group][0])]), 1)
        folder = root / f"{group}-{i}"
        print(f"\n{recipe}, {count:,} steps", flush=True)
        config = with_steps(config, count)
        if loop.train(config, str(folder)).interrupted:
            raise KeyboardInterrupt
        last = read_metrics(folder / "metrics.jsonl")[-1]
        prefix = "validation_"
        means = {name.removeprefix(prefix): value for name, value in last.items() if name.startswith(prefix)}
        tokens = count * config.data.batch_size * config.data.sequence_length
        rows.append(Row(recipe, count, tokens / speed, config.objective.show_held_out(means)))
    return rows


ABOVE = """# Recipes

Presets with other settings, each trained for the time that the first of its table takes: a slower step means fewer
steps, with a schedule as long as the training. Seconds are steps by the measured speed. One run each, so differences of
a few thousandths say nothing."""


def compare_groups(command: Recipes, root: pathlib.Path) -> str:
    """Return the tables of all groups. Raises KeyboardInterrupt and FloatingPointError as `compare`."""
    for group in command.groups:  # before any training, when the machine is in one state
        measured(group, root)
    tables = (f"## {group}\n\n{table(compare(group, root, command.steps))}" for group in command.groups)
    return "\n\n".join(tables)


def table(rows: list[Row]) -> str:
    """Return the rows of one group as a Markdown table."""
    lines = ["| recipe | steps | seconds | held out |", "|---|---:|---:|---|"]
    for row in rows:
        words = f"`{shlex.join(row.recipe.words)}`" if row.recipe.words else f"the preset `{row.recipe.preset}`"
        lines.append(f"| {words} | {row.steps:,} | {row.seconds:.0f} | {row.held_out} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    command = tyro.cli(Recipes, args=arguments, prog="python -m eval recipes")
    return write_page("recipes", arguments, command, lambda root: (ABOVE, compare_groups(command, root)))
