"""Provides rows that are independent examples: drawn without end for training, and counted for evaluation."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Row = dict[str, np.ndarray]

HELD_OUT_SEED = 2**32
"""Seed of held-out examples; seeds of training are less than this."""


@dataclasses.dataclass(frozen=True)
class DrawnRows:
    """Rows that are a function of (seed, number), with random access, in the form of `Rows`."""

    name: str
    row: Callable[[int, int], Row]

    def __str__(self):
        return self.name

    def order(self, seed: int) -> "_Order":
        """Return the position of each element of the endless sequence: (seed, number)."""
        return _Order(seed)

    def take(self, positions: Sequence[tuple[int, int]]) -> list[Row]:
        """Return the rows at these positions."""
        return [self.row(seed, index) for seed, index in positions]


@dataclasses.dataclass(frozen=True)
class _Order:
    seed: int

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.seed, index


@dataclasses.dataclass(frozen=True)
class HeldOutRows:
    """A number of held-out rows."""

    name: str
    count: int
    row: Callable[[int], Row]

    def batches(self, batch_size: int) -> Iterator[Row]:
        """Yield batches of `batch_size` rows; the last one is filled up with rows of weight 0."""
        for start in range(0, self.count, batch_size):
            rows = [self.row(min(start + i, self.count - 1)) for i in range(batch_size)]
            for row in rows[self.count - start :]:
                row["weights"] = np.zeros_like(row["weights"])
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def at_last_step(length: int, target: np.ndarray) -> Row:
    """Return targets and weights of a sequence with one answer, at its end."""
    targets, weights = np.zeros((length, *target.shape), target.dtype), np.zeros(length, np.float32)
    targets[-1], weights[-1] = target, 1
    return {"targets": targets, "weights": weights}
