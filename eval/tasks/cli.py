"""Provides the command line of `python -m eval tasks`."""

import dataclasses
import itertools
import pathlib
import shlex
import time
from collections.abc import Iterator

import tyro

from eval.bench.report import machine
from eval.tasks import models, page, results
from eval.tasks.claims import CLAIMS
from eval.tasks.measure import measure
from eval.tasks.suite import BUDGETS, DOWNLOADED, SUITE
from recurrax import checks
from train.allocator import keep_freed_memory
from train.paths import local_path
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
"""Default models: one or two of each family."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Trains small models on tasks with exact answers, and writes their scores beside published claims about them.

    --task and --mixer train each of those mixers on each of those tasks; --claim runs everything that those claims
    need; without any of them, all claims and then all tasks are run. Every (task, mixer) is trained from several seeds
    at once. The same command resumes an interrupted sweep. The page shows all results in WORKDIR/results/.
    """

    workdir: str
    """Directory of the results and the page."""
    task: tuple[str, ...] | None = None
    """Names of tasks; None: all but those whose data must be downloaded."""
    mixer: tuple[str, ...] | None = None
    """Names of models; None: one or two of each family."""
    claim: tuple[str, ...] | None = None
    """Names of claims to check, instead of tasks and mixers."""
    budget: str = "small"
    """"small": at most three minutes on two cores per pair; "full": larger models, longer sequences, for one GPU."""
    seeds: int = 3
    """Number of seeds: 0, 1, 2 ..."""
    mixed: bool = False
    """Whether results of other commits or packages are shown too, each row with its commit."""
    output: str | None = None
    """Markdown file to write, with its figures beside it; None: WORKDIR/results.md."""

    def __post_init__(self):
        checks.positive(self, "seeds")
        checks.choice("budget", self.budget, BUDGETS)
        for name, choices in (("task", SUITE), ("mixer", models.PATTERNS), ("claim", CLAIMS)):
            for value in getattr(self, name) or ():
                checks.choice(name, value, choices)
        if self.claim and (self.task or self.mixer):
            raise ValueError("a claim has its own tasks and mixers: say --claim, or --task and --mixer, not both")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (task, mixer) pairs to run, in this order, without duplicates."""
        of_claims = [pair for claim in self.claims for pair in CLAIMS[claim].pairs]
        tasks = self.task or [name for name in SUITE if name not in DOWNLOADED]
        product = [] if self.claim else itertools.product(tasks, self.mixer or USUAL)
        return list(dict.fromkeys([*of_claims, *product]))

    @property
    def claims(self) -> list[str]:
        """Names of the claims whose pairs and experiments are run."""
        return list(self.claim or (() if self.task or self.mixer else CLAIMS))


def main(arguments: list[str]) -> int:
    command = tyro.cli(Tasks, args=arguments, prog="python -m eval tasks")
    root = local_path("workdir", command.workdir)
    output = root / "results.md" if command.output is None else local_path("output", command.output)
    if not command.mixed:
        results.check_commit(root)
    for task in dict.fromkeys(task for task, _ in command.pairs):
        # Tried before any training: the data of some tasks come with packages that may not be installed.
        try:
            SUITE[task][command.budget].task.example(0, 0)
        except ImportError as error:
            raise ValueError(f"no data for the task {task}: {error}") from error
    keep_freed_memory()
    failed = []
    with Workdir(root):
        for name, run in _jobs(root, command):
            try:
                run()
            except FloatingPointError as error:
                failed.append(f"{name}: {error}")
            except KeyboardInterrupt:
                print(f"Stopped; the same command goes on with {name}")
                return 0
    for file in page.write(root, output, f"python -m eval tasks {shlex.join(arguments)}"):
        print(f"wrote {file}")
    for line in failed:
        print(f"no result of {line}")
    return 1 if failed else 0


def _jobs(root: pathlib.Path, command: Tasks) -> Iterator:
    """Yield (name, function) of every experiment and training to run."""
    for claim in command.claims:
        for name, experiment in CLAIMS[claim].experiments.items():
            yield name, lambda name=name, experiment=experiment: _experiment(root, command, name, experiment)
    for task, mixer in command.pairs:
        yield f"{mixer} on {task}", lambda task=task, mixer=mixer: _one(root, command, task, mixer)


def _one(root: pathlib.Path, command: Tasks, task: str, mixer: str) -> None:
    """Train the mixer on the task and save the result, unless a result with these seeds exists."""
    setting, seeds = SUITE[task][command.budget], tuple(range(command.seeds))
    model = models.model_for(setting, models.PATTERNS[mixer])
    file = results.path(root, command.budget, task, mixer)
    if file.exists() and results.load(file).seeds == seeds:
        return
    scores = measure(setting, models.PATTERNS[mixer], seeds)
    result = results.Result(task, mixer, command.budget, seeds, setting, scores, machine())
    results.save(root, result, model.config)
    print(f"{task}: {mixer}  {page.cells(result)}  {scores.seconds:.0f} s", flush=True)


def _experiment(root: pathlib.Path, command: Tasks, name: str, experiment) -> None:
    """Run the experiment and save its measurement, unless one with these seeds exists."""
    seeds = tuple(range(command.seeds))
    file = results.path(root, command.budget, results.EXPERIMENTS, name)
    if file.exists() and results.load_measurement(file).seeds == seeds:
        return
    start = time.monotonic()
    values = experiment(command.budget, seeds)
    seconds = time.monotonic() - start
    results.save_measurement(root, results.Measurement(name, command.budget, seeds, values, seconds, machine()))
    print(f"{name}  {seconds:.0f} s", flush=True)
