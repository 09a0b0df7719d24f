"""How each task is trained and tested, within minutes of two cores (small) or of one GPU (full)."""

import dataclasses

from eval.tasks.text import Language
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
    options: tuple[tuple[str, int], ...] = ()
    """Fields of the mixers' configs and what they are in all that have them."""
    projection: bool = True
    """Whether a gated unit follows every mixer."""
    curriculum: tuple[int, ...] = ()
    """Lengths that are trained on one after the other, for equal parts of the steps; (): the task's own."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    test_size: int = 256
    """Sequences of a test."""
    shows_nats: bool = False
    """Whether the page has the mean of -log p of the answers beside the share of right ones."""

    def __post_init__(self):
        checks.positive(self, "steps", "batch_size", "dim", "num_layers", "learning_rate", "test_size")
        for length in (*self.lengths, *self.curriculum):
            self.task.at(length)  # raises where the task has no such length
        if self.task.length not in self.lengths:
            raise ValueError(f"the trained length {self.task.length} is not among the tested {self.lengths}")


def small(task: Task, *more: int, steps: int = 600, **options) -> Setting:
    """Minutes of two cores, for the slowest mixer too: few short sequences. `more` lengths are tested as well."""
    return Setting(task, tuple(sorted((task.length, *more))), steps, **{"batch_size": 32, **options})


def full(task: Task, *more: int, **options) -> Setting:
    """Minutes of one GPU."""
    options = {"batch_size": 256, "dim": 128, "learning_rate": 2e-3, **options}
    return Setting(task, tuple(sorted((task.length, *more))), options.pop("steps", 20_000), **options)


def tracking(task: Task) -> dict[str, Setting]:
    """Of tasks that follow a state: one layer alone must do, and goes on beyond the trained length or has no rule.

    Many small heads are as many tries at the right transition; a short convolution or a gated unit would be a way
    around it, that ends where training does; and what is learnt on 8 steps is found nowhere on 32.
    """
    options = (("num_heads", 8), ("head_dim", 8), ("value_head_dim", 8), ("conv_width", 1))
    common = {"num_layers": 1, "projection": False, "options": options, "batch_size": 64}
    return {
        "small": small(
            task.at(32), 64, 128, steps=800, dim=32, learning_rate=1e-2, curriculum=(8, 8, 16, 32), **common
        ),
        "full": full(task.at(128), 256, 512, dim=64, learning_rate=5e-3, curriculum=(8, 8, 16, 32, 64, 128), **common),
    }


IMAGES = {"batch_size": 64, "num_layers": 4, "learning_rate": 1e-3}

SUITE: dict[str, dict[str, Setting]] = {
    "copying": {
        "small": small(tasks.Copying(length=32, num_items=6), 24, 48),
        "full": full(tasks.Copying(length=256, num_items=16), 192, 384),
    },
    "selective-copying": {
        "small": small(tasks.SelectiveCopying(length=32, num_items=4), 24, 64, 128),
        "full": full(tasks.SelectiveCopying(length=1024, num_items=16, num_symbols=14), 512, 2048, batch_size=64),
    },
    "induction-heads": {
        "small": small(tasks.InductionHeads(length=32), 16, 64, 128, steps=800),
        "full": full(tasks.InductionHeads(length=256), 1024, 4096, steps=50_000),
    },
    "mqar": {
        "small": small(
            tasks.MQAR(length=32, num_pairs=8, num_tokens=32, random_between=False), steps=800, learning_rate=5e-3
        ),
        "full": full(tasks.MQAR(length=256, num_pairs=64)),
    },
    "mqar-deep": {
        "small": small(
            tasks.MQAR(length=32, num_pairs=8, num_tokens=32, random_between=False), num_layers=4, learning_rate=5e-3
        ),
        "full": full(tasks.MQAR(length=256, num_pairs=64), num_layers=4),
    },
    "forgetting-mqar": {
        "small": small(
            tasks.ForgettingMQAR(length=32, num_pairs=4, num_rebinds=4, num_tokens=32, random_between=False),
            steps=800,
            learning_rate=5e-3,
        ),
        "full": full(tasks.ForgettingMQAR(length=256, num_pairs=32, num_rebinds=32)),
    },
    "parity": tracking(tasks.Parity()),
    "parity-projected": {
        "small": small(tasks.Parity(length=32), 64, 128, steps=1000, num_layers=1, learning_rate=3e-3),
        "full": full(tasks.Parity(length=64), 128, 256, 512, num_layers=1),
    },
    "modular-counting": tracking(tasks.ModularCounting(modulus=3)),
    "modular-arithmetic": tracking(tasks.ModularArithmetic(modulus=5)),
    **{f"group-{group.lower()}": tracking(tasks.GroupWord(group=group)) for group in ("Z60", "S3", "S4", "A5", "S5")},
    **{f"swaps-{g.lower()}": tracking(tasks.GroupWord(group=g, letters="swaps")) for g in ("S3", "S4", "S5")},
    **{f"generators-{g.lower()}": tracking(tasks.GroupWord(group=g, letters="generators")) for g in ("S4", "A5", "S5")},
    "automata": {
        "small": small(tasks.RandomAutomata(length=64), steps=320),
        "full": full(tasks.RandomAutomata(length=512), batch_size=32, num_layers=4),
    },
    "regression": {
        "small": small(tasks.LinearRegression(length=21, dim=5)),
        "full": full(tasks.LinearRegression(length=41, dim=20)),
    },
    "adding": {"small": small(tasks.Adding(length=32)), "full": full(tasks.Adding(length=512))},
    "listops": {
        "small": small(tasks.ListOps(length=32, max_depth=3, max_parts=4)),
        "full": full(tasks.ListOps(length=512, max_depth=8, max_parts=8, min_length=32), batch_size=64, num_layers=4),
    },
    "digits-pixel": {"small": small(tasks.SequentialImages(), steps=320), "full": full(tasks.SequentialImages())},
    "digits-row": {
        "small": small(tasks.SequentialImages(scan="row"), steps=1200),
        "full": full(tasks.SequentialImages(scan="row")),
    },
    "mnist-pixel": {
        "small": small(tasks.SequentialImages(source="mnist"), steps=90, batch_size=8),
        "full": full(tasks.SequentialImages(source="mnist"), **IMAGES),
    },
    "mnist-row": {
        "small": small(tasks.SequentialImages(source="mnist", scan="row")),
        "full": full(tasks.SequentialImages(source="mnist", scan="row"), **IMAGES),
    },
    "cifar10-pixel": {
        "small": small(tasks.SequentialImages(source="cifar10"), steps=70, batch_size=8),
        "full": full(tasks.SequentialImages(source="cifar10"), **IMAGES),
    },
    "oscillation": {
        "small": small(tasks.Oscillation(length=64, noise=0.1), steps=400, dim=32, num_layers=1),
        "full": full(tasks.Oscillation(length=64, noise=0.1)),
    },
    "language": {
        "small": small(
            Language(length=64),
            128,
            256,
            512,
            num_layers=4,
            steps=300,
            batch_size=8,
            test_size=64,
            shows_nats=True,
        ),
        "full": full(Language(length=1024), 2048, 4096, 8192, num_layers=6, batch_size=32, shows_nats=True),
    },
    "passkey": {
        "small": small(tasks.Passkey(length=96), 128, 192, steps=400, batch_size=16),
        "full": full(tasks.Passkey(length=1024), 4096, batch_size=32, num_layers=4),
    },
}

DOWNLOADED = ("mnist-pixel", "mnist-row", "cifar10-pixel")
"""Tasks whose data TFDS must have downloaded: run where they are asked for by name."""
