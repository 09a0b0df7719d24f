"""Define the bars: the largest error that each number may have."""

from collections.abc import Sequence
from typing import NamedTuple

from eval.accuracy.measure import Row
from eval.accuracy.regimes import MILD, MIXTURE, STRONG

STRICT = (MILD, STRONG, MIXTURE)
"""Regimes that training meets; the others are the edges of what may be passed in."""
FLOAT32 = {"outputs": 2e-6, "gradients": 1e-5}
FLOAT32_ELSEWHERE = {"outputs": 1e-4, "gradients": 1e-4}
HALF = {"outputs": 4e-3, "gradients": 1e-2}


class Broken(NamedTuple):
    """An error above its bar."""

    row: Row
    name: str
    error: float
    bar: float

    def __str__(self):
        row = self.row
        where = f"{row.op}, {row.dtype}, {row.implementation}, variant {row.variant}, {row.regime}"
        return f"{where}: {self.name} {self.error:.1e}, the bar is {self.bar:.0e}"


def bars(row: Row) -> dict[str, float]:
    """Return the largest errors that the row's outputs and gradients may have."""
    if row.dtype != "float32":
        return HALF
    return FLOAT32 if row.regime in [regime.name for regime in STRICT] else FLOAT32_ELSEWHERE


def broken(rows: Sequence[Row]) -> list[Broken]:
    """Return all errors above their bars, NaN among them."""
    found = []
    for row in rows:
        for kind, bar in bars(row).items():
            for name, error in getattr(row, kind).items():
                if not error <= bar:
                    found.append(Broken(row, name, error, bar))
    return found
