"""Provides data that a function of the user's own returns: row = source(seed, number)."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from recurrax import checks
from recurrax.models import BackboneConfig
from recurrax.pretrained import Tokenizer
from train.data.examples import HELD_OUT_SEED, DrawnRows, HeldOutRows, Row
from train.data.tokens import tokenizer_in
from train.data.vocabulary import Bytes
from train.kinds import KINDS
from train.user_code import find_function


@dataclasses.dataclass(frozen=True)
class FunctionData:
    """Rows of a function: source(seed, number) -> {"inputs", "targets", "weights", "reset"}, always the same.

    Inputs are tokens (T,) or vectors (T, F). Targets are (T,), integers for text and classes and floats for numbers,
    or numbers (T, N). Weights (T,) are 1 where a target counts; without them all count. Resets (T,) are True where a
    document starts. The seed of held-out rows is 2**32; those of training are less.
    """

    source: str
    """FILE.py:FUNCTION, or MODULE:FUNCTION."""
    kind: str = "text"
    """What the targets are, for objectives: "text" (the next tokens), "classes" or "numbers"."""
    batch_size: int = 32
    """Rows per step over all hosts (B)."""
    held_out: int = 512
    """Number of held-out rows."""
    tokenizer: str | None = None
    """Directory of the tokenizer whose tokens a text has, for `eval generate`; None: they are bytes."""

    packed: ClassVar[bool] = True
    """Rows are independent; each may hold several documents."""

    def __post_init__(self):
        checks.choice("data.kind", self.kind, KINDS)
        checks.positive(self, "batch_size", "held_out")

    @property
    def sequence_length(self) -> int:
        """Steps of a row (T)."""
        return self._first["inputs"].shape[0]

    @property
    def features(self) -> int | None:
        """Numbers of an input vector; None if inputs are tokens."""
        inputs = self._first["inputs"]
        return inputs.shape[1] if inputs.ndim == 2 else None

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the dtype and the shape after (B, T) of every array of a batch."""
        return {name: (str(array.dtype), array.shape[1:]) for name, array in self._first.items()}

    @property
    def vocabulary(self) -> Bytes | Tokenizer:
        """What encodes and decodes a text. Raises ValueError if there is no such tokenizer."""
        return Bytes() if self.tokenizer is None else tokenizer_in(self.tokenizer)

    def check(self, model: BackboneConfig) -> None:
        """Raise ValueError unless the first row has the form that the kind says and the model reads."""
        first, wanted = self._first, ("inputs", "targets")
        if missing := [name for name in wanted if name not in first]:
            raise ValueError(f"data.source {self.source} must return inputs and targets, it lacks {', '.join(missing)}")
        inputs, targets = first["inputs"], first["targets"]
        tokens, whole = inputs.dtype == np.int32, targets.dtype == np.int32
        length = inputs.shape[:1]
        fits = inputs.ndim == (1 if tokens else 2) and whole == (self.kind != "numbers")
        fits &= targets.shape == length or (not whole and targets.ndim == 2 and targets.shape[:1] == length)
        fits &= all(first[name].shape == length for name in ("weights", "reset"))
        if not fits:
            wanted = "(T,) or (T, N) floats" if self.kind == "numbers" else "(T,) integers"
            raise ValueError(
                f"data.source {self.source} returns {_describe(first)}; inputs must be tokens (T,) or vectors (T, F), "
                f"and targets of kind {self.kind!r} {wanted}"
            )
        if tokens != (model.vocab_size is not None):
            reads = "tokens" if model.vocab_size is not None else "vectors"
            raise ValueError(f"data.source {self.source} returns {_describe(first)}; the model reads {reads}")

    def open(self, say=print) -> tuple[DrawnRows, HeldOutRows, dict]:
        """Return the rows of training, the held-out ones, and an identification of both as JSON."""
        del say
        rows = DrawnRows(f"rows of {self.source}", self.row)
        held_out = HeldOutRows(self.source, self.held_out, lambda i: self.row(HELD_OUT_SEED, i))
        return rows, held_out, {split: {"source": self.source} for split in ("train", "validation")}

    def row(self, seed: int, index: int) -> Row:
        """Return one row. Raises ValueError if it has another form than the first one."""
        row, first = _row(find_function(self.source, "data.source")(seed, index)), self._first
        if _describe(row) != _describe(first):
            raise ValueError(f"data.source {self.source} returns {_describe(first)} first, and later {_describe(row)}")
        return row

    @property
    def _first(self) -> Row:
        return _first_row(self.source)


@functools.lru_cache(maxsize=4)
def _first_row(source: str) -> Row:
    found = find_function(source, "data.source")(0, 0)
    if not isinstance(found, dict):
        raise ValueError(f"data.source {source} must return a dict of arrays, got {type(found).__name__}")
    return _row(found)


def _row(found) -> Row:
    """Return the arrays in the dtypes of batches, with all weights and resets."""
    row = {name: np.asarray(value) for name, value in found.items()}
    length = row["inputs"].shape[:1] if "inputs" in row else ()
    if "reset" not in row:
        row["reset"] = np.arange(*length) == 0 if length else np.zeros(0, bool)
    row.setdefault("weights", np.ones(length, np.float32))
    dtypes = {"b": bool, "i": np.int32, "u": np.int32, "f": np.float32}
    row["weights"] = row["weights"].astype(np.float32)
    return {name: array.astype(dtypes.get(array.dtype.kind, array.dtype)) for name, array in sorted(row.items())}


def _describe(row: Row) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in row.items())
