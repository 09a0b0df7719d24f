"""The flags of `python -m eval tasks`."""

import dataclasses
import pathlib
import shlex

import tyro

from eval.bench.report import machine
from eval.tasks import models, page, results
from eval.tasks.measure import measure
from eval.tasks.suite import BUDGETS, DOWNLOADED, SUITE
from recurrax import checks
from train.allocator import keep_freed_memory
from train.workdir import Workdir

USUAL = (
    "Attention",
    "LRU",
    "S5",
    "Mamba",
    "GLA",
    "DeltaNet",
    "DeltaNet-negative",
    "GatedDeltaNet",
    "DeltaProduct",
    "GRU",
)


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Trains small models on tasks with exact answers, and writes what they can do as a page and a picture.

    Every (task, mixer) is trained from several seeds at once. An interrupted sweep goes on with the next one: the same
    command again. The page shows all that WORKDIR/results/ holds.
    """

    workdir: str
    """Directory of the results, and of the page."""
    task: tuple[str, ...] = tuple(name for name in SUITE if name not in DOWNLOADED)
    """Which of them; by default all but those whose data must be downloaded."""
    mixer: tuple[str, ...] = USUAL
    """Which models; by default one or two of each family."""
    budget: str = "small"
    """small: at most three minutes on two cores for each; full: larger models and longer sequences, for one GPU."""
    seeds: int = 3
    """How many: 0, 1, 2 ..."""
    output: str | None = None
    """The Markdown file to write, its picture beside it; None: WORKDIR/results.md."""

    def __post_init__(self):
        checks.positive(self, "seeds")
        checks.choice("budget", self.budget, BUDGETS)
        for name in self.task:
            checks.choice("task", name, SUITE)
        for name in self.mixer:
            checks.choice("mixer", name, models.PATTERNS)


def main(arguments: list[str]) -> int:
    command = tyro.cli(Tasks, args=arguments, prog="python -m eval tasks")
    root = pathlib.Path(command.workdir)
    output = root / "results.md" if command.output is None else pathlib.Path(command.output)
    results.check_commit(root)
    for task in command.task:
        # Before an hour of others is spent: the data of some come with packages that may not be there.
        try:
            SUITE[task][command.budget].task.example(0, 0)
        except ImportError as error:
            raise ValueError(f"no data for the task {task}: {error}") from error
    keep_freed_memory()
    failed = []
    with Workdir(root):
        for task in command.task:
            for mixer in command.mixer:
                try:
                    _one(root, command, task, mixer)
                except FloatingPointError as error:
                    failed.append(f"{mixer} on {task}: {error}")
                except KeyboardInterrupt:
                    print(f"Stopped; the same command goes on with {mixer} on {task}")
                    return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = output.with_suffix(".png")
    found = [results.load(file) for file in results.files(root)]
    page.plot(found, picture)
    output.write_text(page.page(found, f"python -m eval tasks {shlex.join(arguments)}", picture.name))
    print(f"wrote {output} and {picture}")
    for line in failed:
        print(f"no result of {line}")
    return 1 if failed else 0


def _one(root: pathlib.Path, command: Tasks, task: str, mixer: str) -> None:
    """Trains and saves, unless that is done."""
    setting, seeds = SUITE[task][command.budget], tuple(range(command.seeds))
    model = models.model_for(setting.task, models.PATTERNS[mixer], setting.dim, setting.num_layers)
    file = results.path(root, command.budget, task, mixer)
    if file.exists() and results.load(file).seeds == seeds:
        return
    scores = measure(setting, models.PATTERNS[mixer], seeds)
    result = results.Result(task, mixer, command.budget, seeds, setting, scores, machine())
    results.save(root, result, model.config)
    print(f"{task}: {mixer}  {page.cells(result)}  {scores.seconds:.0f} s", flush=True)
