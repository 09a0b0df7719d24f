"""What a task is: sequences with exact answers, each a function of (seed, index) alone."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from recurrax import checks


class Example(NamedTuple):
    """One sequence, or with a batch axis in front several."""

    inputs: Int[np.ndarray, "*B T"] | Float[np.ndarray, "*B T F"]
    """Tokens below the task's vocab_size, or vectors of its `features` numbers."""
    targets: Int[np.ndarray, "*B T"] | Float[np.ndarray, "*B T"]
    """The answer at each step: a class below num_classes, or a number."""
    weights: Float[np.ndarray, "*B T"]
    """1 where the answer counts, 0 where there is none: there the target is 0."""
    distribution: Float[np.ndarray, "*B T V"] | None = None
    """Where several answers are right: the probability of each. Zeros where the answer does not count."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A distribution of sequences of `length` steps.

    Two runs that are to see different sequences have different seeds: one for training, one for tests.
    """

    length: int = 64
    """T, steps of a sequence."""

    vocab_size = None
    """Tokens there are; None: inputs are vectors."""
    features = None
    """Numbers of an input vector; None: inputs are tokens."""
    num_classes = None
    """Answers there are; None: answers are numbers, and the score is the squared error."""

    def __post_init__(self):
        integers = (f.name for f in dataclasses.fields(self) if type(getattr(self, f.name)) is int)
        checks.positive(self, *(name for name in integers if name not in self.may_be_zero))

    may_be_zero = ()
    """Fields of whole numbers that need not be positive."""

    @property
    def chance(self) -> float:
        """The score of whoever knows the task but not the sequence: accuracy, or squared error."""
        raise NotImplementedError

    def example(self, seed: int, index: int) -> Example:
        """Sequence number `index` of this seed."""
        raise NotImplementedError

    def batch(self, seed: int, start: int, size: int) -> Example:
        """Sequences start .. start + size - 1, with an axis in front."""
        examples = [self.example(seed, index) for index in range(start, start + size)]
        stacked = (None if parts[0] is None else np.stack(parts) for parts in zip(*examples, strict=True))
        return Example(*stacked)

    def at(self, length: int) -> "Task":
        """The same task with sequences of another length."""
        return dataclasses.replace(self, length=length)

    def baselines(self, batch: Example) -> dict[str, Float[np.ndarray, " B"]]:
        """What known algorithms answer at the last step of each sequence, by their names."""
        del batch
        return {}

    def held_out(self) -> "Task":
        """What is tested after training on this: the same task with another seed, but where a data set has a split."""
        return self


def generator(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one sequence."""
    return np.random.default_rng((seed, index))


def at_steps(length: int, steps, answers, dtype=np.int32) -> tuple[np.ndarray, np.ndarray]:
    """Targets and weights where `answers` are those of these steps."""
    targets, weights = np.zeros(length, dtype), np.zeros(length, np.float32)
    targets[steps], weights[steps] = answers, 1
    return targets, weights
