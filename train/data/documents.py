"""A corpus: documents of bytes, by index."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from train.data.bad_record import BadRecords
from train.data.config import DataConfig
from train.data.local_text import open_local_text
from train.data.tfds_text import open_tfds_text

SPLITS = ("train", "validation")


class Documents(Protocol):
    """Random access to the documents of one split."""

    name: str

    def __len__(self) -> int:
        """The number of documents."""

    def __getitem__(self, index: int) -> np.ndarray:
        """The bytes of document `index`, uint8, shape (length,)."""


@runtime_checkable
class KnowsLengths(Protocol):
    """Documents that can say how long they are without being read one by one every time."""

    def lengths(self) -> np.ndarray:
        """The number of bytes of every document, int64, shape (len(documents),)."""


@runtime_checkable
class ReadsSpans(Protocol):
    """Documents that are read in parts."""

    def span(self, index: int, begin: int, end: int) -> np.ndarray:
        """documents[index][begin:end]; empty if the document cannot be read and is to be skipped."""


@runtime_checkable
class ReadsAhead(Protocol):
    """Documents that are cheaper to read together than one by one."""

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Reads these documents now, so that `documents[i]` has them at hand."""


@runtime_checkable
class HasStart(Protocol):
    """Documents of other tokens than bytes."""

    start: int
    """The token that opens each of them."""


class Text(Documents, Protocol):
    """Documents that know which text they are of."""

    def identity(self) -> dict:
        """What tells this text from another, as JSON: the numbers of files and bytes, a digest of part of each file."""


def document_lengths(documents: Documents) -> np.ndarray:
    """The number of bytes (tokens) of every document, int64, shape (len(documents),)."""
    if isinstance(documents, KnowsLengths):
        return documents.lengths()
    return np.array([len(documents[i]) for i in range(len(documents))], dtype=np.int64)


def open_documents(config: DataConfig, split: str, say: Callable[[str], object] = print) -> Text:
    """The documents of one split of the text that `config` names, prepared first where that is needed.

    A local text is split by `config.validation_fraction`; a TFDS data set by its own validation split, or else its test
    split, or else the last `config.validation_fraction` of its train split. What is left out is told through `say`.

    Raises:
        ValueError: `split` is neither "train" nor "validation"; no data set has this name; the data set has no text
            feature; there is no text in it.
        FileNotFoundError: `config.path` does not exist.
        BadRecordError: a record cannot be read, and `config.on_bad_record` is "stop"; here or when it is used.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    bad = BadRecords(skip=config.on_bad_record == "skip")
    if config.path is not None:
        return open_local_text(config.path, config.validation_fraction, split, bad, say)
    documents = open_tfds_text(config.dataset, config.data_dir, config.validation_fraction, split, bad)
    # Said here, before anything is compiled; `any` stops at the first byte it meets.
    if not any(len(documents[i]) for i in range(len(documents))):
        raise ValueError(f"an empty data set: {documents.name} has {len(documents)} documents and not one byte")
    return documents
