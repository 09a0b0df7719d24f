"""Provides sequences of `recurrax.tasks` as data: inputs of every step, and answers at the steps that have one."""

import dataclasses
from typing import ClassVar

import numpy as np

from recurrax import checks
from recurrax.models import BackboneConfig
from recurrax.tasks import Example, SelectiveCopying, Task
from train.data.examples import HELD_OUT_SEED, DrawnRows, HeldOutRows, Row


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

    def open(self, say=print) -> tuple[DrawnRows, HeldOutRows, dict]:
        """Return the rows of training, the held-out ones, and an identification of both as JSON."""
        del say
        held_out = self.task.held_out()
        rows = DrawnRows(str(self.task), lambda seed, index: as_row(self.task.example(seed, index)))
        test = HeldOutRows(str(self.task), self.held_out, lambda i: as_row(held_out.example(HELD_OUT_SEED, i)))
        return rows, test, {split: {"task": str(self.task)} for split in ("train", "validation")}


def as_row(example: Example) -> Row:
    """Return an example of a task as a row of a batch."""
    return {"inputs": example.inputs, "targets": example.targets, "weights": np.asarray(example.weights, np.float32)}
