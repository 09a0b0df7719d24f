"""Provides a corpus of one document, and the division of one document into two splits."""

import numpy as np

from train.data.bad_record import BadRecordError
from train.data.text_file import TextFile


class SingleDocument:
    """One document in memory; `text` is uint8, shape (length,)."""

    def __init__(self, name: str, text: np.ndarray, identity: dict):
        self.name = name
        self._text = text
        self._identity = identity

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        if index != 0:
            raise IndexError(f"document {index} of 1")
        return self._text

    def lengths(self) -> np.ndarray:
        return np.array([len(self._text)], dtype=np.int64)

    def identity(self) -> dict:
        return self._identity

    def stamp(self) -> str:
        return ""


class FilePart:
    """The bytes `begin` to `end` of a file as one document, which are read on access.

    A file that cannot be read is an error even if bad records are skipped, because there is no other text.
    """

    def __init__(self, name: str, file: TextFile, begin: int, end: int):
        self.name = name
        self._file = file
        self._begin, self._end = begin, end

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.span(index, 0, self._end - self._begin)

    def span(self, index: int, begin: int, end: int) -> np.ndarray:
        if index != 0:
            raise IndexError(f"document {index} of 1")
        try:
            return self._file.read(self._begin + begin, self._begin + end)
        except OSError as error:
            raise BadRecordError(f"{self._file.path} cannot be read: {error}. It is all the text there is") from error

    def lengths(self) -> np.ndarray:
        return np.array([self._end - self._begin], dtype=np.int64)

    def identity(self) -> dict:
        return {"files": 1, "bytes": self._file.stamp.size, "sha256": self._file.digest()}

    def stamp(self) -> str:
        return f"{self._begin} {self._end} {self._file.stamp.time}"


def validation_count(total: int, fraction: float) -> int:
    """Return how many of `total` >= 2 items are held out: the fraction, but at least 1 and at most total - 1."""
    return min(max(round(total * fraction), 1), total - 1)


def part_of_document(name: str, total: int, validation_fraction: float, split: str) -> tuple[int, int]:
    """Return begin and end of a split of a document of `total` bytes; the last `validation_fraction` is "validation".

    Raises:
        ValueError: there are fewer than two bytes, so that one of the parts would be empty.
    """
    if not total:
        raise ValueError(f"an empty data set: {name} has no bytes")
    if total < 2:
        raise ValueError(f"{name} has one byte: too little for a train and a validation part")
    cut = total - validation_count(total, validation_fraction)
    return (0, cut) if split == "train" else (cut, total)
