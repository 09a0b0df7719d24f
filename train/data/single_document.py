"""A corpus of one document, and how one document is divided into two splits."""

import numpy as np


class SingleDocument:
    """One document; `text` is uint8, shape (length,), and may be a memory map."""

    def __init__(self, name: str, text: np.ndarray):
        self.name = name
        self._text = text

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        if index != 0:
            raise IndexError(f"document {index} of 1")
        return self._text

    def lengths(self) -> np.ndarray:
        return np.array([len(self._text)], dtype=np.int64)


def validation_count(total: int, fraction: float) -> int:
    """How many of `total` >= 2 things are held out: the fraction, but at least one, and all but one at most."""
    return min(max(round(total * fraction), 1), total - 1)


def part_of_document(name: str, text: np.ndarray, validation_fraction: float, split: str) -> SingleDocument:
    """The document's last `validation_fraction` bytes for "validation", what comes before them for "train".

    Raises:
        ValueError: there are fewer than two bytes, so that one of the parts would be empty.
    """
    if not len(text):
        raise ValueError(f"an empty data set: {name} has no bytes")
    if len(text) < 2:
        raise ValueError(f"{name} has one byte: too little for a train and a validation part")
    cut = len(text) - validation_count(len(text), validation_fraction)
    return SingleDocument(f"{name}:{split}", text[:cut] if split == "train" else text[cut:])
