"""Provides sequences of `recurrax.tasks` as data: inputs of every step, and answers at the steps that have one."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from recurrax import checks
from recurrax.models import BackboneConfig
from recurrax.tasks import SelectiveCopying, Task

HELD_OUT_SEED = 2**32
"""Seed of the held-out sequences; seeds of training are less than this."""


@dataclasses.dataclass(frozen=True)
class TaskData:
    """Sequences of a task with exact answers; a run never sees one twice, except of a data set of images."""

    task: Task = SelectiveCopying()
    """The task with its settings, such as SequentialImages(scan="row")."""
    batch_size: int = 32
    """Sequences per step over all hosts (B)."""
    held_out: int = 512
    """Number of held-out sequences."""

    def __post_init__(self):
        checks.positive(self, "batch_size", "held_out")

    packed: ClassVar[bool] = True
    """Sequences are independent rows."""

    @property
    def sequence_length(self) -> int:
        """Steps of a sequence (T)."""
        return self.task.length

    @property
    def features(self) -> int | None:
        """Numbers of an input vector; None if inputs are tokens."""
        return self.task.features

    @property
    def kind(self) -> str:
        """The kind of data, for objectives."""
        return "numbers" if self.task.num_classes is None else "classes"

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the dtype and the shape after (B, T) of every array of a batch."""
        inputs = ("int32", ()) if self.features is None else ("float32", (self.features,))
        targets = "int32" if self.kind == "classes" else "float32"
        return {"inputs": inputs, "targets": (targets, ()), "weights": ("float32", ())}

    def check(self, model: BackboneConfig) -> None:
        """Raise ValueError unless the model reads these inputs and has an output for each class."""
        wanted = {"vocab_size": self.task.vocab_size, "num_classes": self.task.num_classes}
        for name, value in wanted.items():
            has = getattr(model, name, None)
            if (value is None) != (has is None) or (value is not None and has < value):
                raise ValueError(f"model.{name} must be {value} for {self.task}, got {has}")


@dataclasses.dataclass(frozen=True)
class TaskRows:
    """Sequences of a task with random access, in the form of `Rows`."""

    task: Task

    def __str__(self):
        return str(self.task)

    def order(self, seed: int) -> "_Order":
        """Return the position of each element of the endless sequence: (seed, index)."""
        return _Order(seed)

    def take(self, positions: Sequence[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
        """Return the rows at these positions."""
        return [as_row(self.task.example(seed, index)) for seed, index in positions]


@dataclasses.dataclass(frozen=True)
class _Order:
    seed: int

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.seed, index


@dataclasses.dataclass(frozen=True)
class TaskTest:
    """The held-out sequences of a task."""

    task: Task
    count: int

    def identity(self) -> dict:
        """Return an identification as JSON: the sequences are a function of the config."""
        return {"task": str(self.task)}

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches of `batch_size` rows; the last one is filled up with rows of weight 0."""
        task = self.task.held_out()
        for start in range(0, self.count, batch_size):
            rows = [as_row(task.example(HELD_OUT_SEED, start + i)) for i in range(batch_size)]
            for row in rows[max(self.count - start, 0) :]:
                row["weights"] = np.zeros_like(row["weights"])
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def as_row(example) -> dict[str, np.ndarray]:
    """Return an example as a row of a batch."""
    return {"inputs": example.inputs, "targets": example.targets, "weights": np.asarray(example.weights, np.float32)}
