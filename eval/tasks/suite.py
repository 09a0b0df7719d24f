"""How each task is trained and tested, within minutes of two cores (small) or of one GPU (full)."""

import dataclasses

from recurrax import checks, tasks
from recurrax.tasks import Task

BUDGETS = ("small", "full")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One task with one budget."""

    task: Task
    """As it is trained."""
    lengths: tuple[int, ...]
    """Of the sequences it is tested on; the trained one is among them."""
    steps: int
    """Of training."""
    batch_size: int = 64
    """Sequences of a step, never the same twice but where a data set ends."""
    dim: int = 64
    """Width of the model."""
    num_layers: int = 2
    learning_rate: float = 2e-3
    test_size: int = 256
    """Sequences of a test."""

    def __post_init__(self):
        integers = ("steps", "batch_size", "dim", "num_layers", "learning_rate", "test_size")
        checks.positive(self, *integers)
        for length in self.lengths:
            self.task.at(length)  # raises where the task has no such length
        if self.task.length not in self.lengths:
            raise ValueError(f"the trained length {self.task.length} is not among the tested {self.lengths}")


def _tracking(task: Task, **full) -> dict[str, Setting]:
    """Of tasks that follow a state: one layer must do, and goes on beyond the trained length or has learnt no rule."""
    return {
        "small": Setting(task.at(32), (32, 64, 128, 256), steps=1200, num_layers=1, learning_rate=3e-3),
        "full": Setting(task.at(64), (64, 128, 256, 512), steps=20_000, batch_size=256, dim=128, **full),
    }


def _whole(task: Task, steps: int, bigger: Task | None = None, **full) -> dict[str, Setting]:
    """Of tasks that are tested at the length they are trained at."""
    bigger = bigger or task
    return {
        "small": Setting(task, (task.length,), steps=steps),
        "full": Setting(bigger, (bigger.length,), steps=20_000, dim=128, **full),
    }


SUITE: dict[str, dict[str, Setting]] = {
    "copying": {
        "small": Setting(tasks.Copying(length=64), (48, 64, 96), steps=800),
        "full": Setting(tasks.Copying(length=256, num_items=16), (192, 256, 384), steps=20_000, dim=128),
    },
    "selective-copying": {
        "small": Setting(tasks.SelectiveCopying(length=64), (48, 64, 96, 192), steps=800),
        "full": Setting(
            tasks.SelectiveCopying(length=1024, num_items=16, num_symbols=14),
            (512, 1024, 2048),
            steps=50_000,
            dim=128,
        ),
    },
    "induction-heads": {
        "small": Setting(tasks.InductionHeads(length=64), (32, 64, 128, 256), steps=800),
        "full": Setting(tasks.InductionHeads(length=256), (256, 1024, 4096), steps=50_000, dim=128),
    },
    "mqar": _whole(
        tasks.MQAR(length=64, num_pairs=8, num_tokens=128),
        800,
        tasks.MQAR(length=256, num_pairs=64),
        batch_size=256,
    ),
    "forgetting-mqar": _whole(
        tasks.ForgettingMQAR(length=64, num_pairs=6, num_rebinds=6, num_tokens=128),
        800,
        tasks.ForgettingMQAR(length=256, num_pairs=32, num_rebinds=32),
        batch_size=256,
    ),
    "parity": _tracking(tasks.Parity()),
    "modular-counting": _tracking(tasks.ModularCounting(modulus=3)),
    "modular-arithmetic": _tracking(tasks.ModularArithmetic(modulus=5)),
    **{f"group-{group.lower()}": _tracking(tasks.GroupWord(group=group)) for group in ("Z60", "S3", "S4", "A5", "S5")},
    "automata": _whole(tasks.RandomAutomata(length=128), 600, tasks.RandomAutomata(length=512), num_layers=4),
    "regression": _whole(tasks.LinearRegression(length=21, dim=5), 1200, tasks.LinearRegression(length=41, dim=20)),
    "adding": _whole(tasks.Adding(length=64), 800, tasks.Adding(length=512)),
    "listops": _whole(
        tasks.ListOps(length=64, max_depth=3),
        800,
        tasks.ListOps(length=512, max_depth=8, max_parts=8, min_length=32),
    ),
    "digits-pixel": _whole(tasks.SequentialImages(source="digits"), 600),
    "digits-row": _whole(tasks.SequentialImages(source="digits", scan="row"), 1200),
    "mnist-pixel": _whole(tasks.SequentialImages(source="mnist"), 60),
    "mnist-row": _whole(tasks.SequentialImages(source="mnist", scan="row"), 1200),
    "cifar10-pixel": _whole(tasks.SequentialImages(source="cifar10"), 40),
    "passkey": {
        "small": Setting(tasks.Passkey(length=160), (160, 256, 512), steps=400, batch_size=32),
        "full": Setting(tasks.Passkey(length=1024), (1024, 4096), steps=20_000, dim=128, num_layers=4),
    },
}

DOWNLOADED = ("mnist-pixel", "mnist-row", "cifar10-pixel")
"""Tasks whose data TFDS must have downloaded: run where they are asked for by name."""
