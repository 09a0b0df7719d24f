"""Provides the interfaces of a corpus, documents of bytes by index, and `open_documents`, which opens one."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from train.data.bad_record import BadRecords
from train.data.config import DataConfig
from train.data.local_text import open_local_text
from train.data.tfds_text import data_root, open_tfds_text
from train.data.tokens import tokenized, tokenizer_in

SPLITS = ("train", "validation")


class Documents(Protocol):
    """Random access to the documents of one split."""

    name: str

    def __len__(self) -> int:
        """Return the number of documents."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the bytes of document `index`, uint8, shape (length,)."""


@runtime_checkable
class KnowsLengths(Protocol):
    """Documents whose lengths are known without reading each document every time."""

    def lengths(self) -> np.ndarray:
        """Return the number of bytes of every document, int64, shape (len(documents),)."""


@runtime_checkable
class ReadsSpans(Protocol):
    """Documents of which parts can be read."""

    def span(self, index: int, begin: int, end: int) -> np.ndarray:
        """Return documents[index][begin:end]; empty if the document cannot be read and bad records are skipped."""


@runtime_checkable
class ReadsAhead(Protocol):
    """Documents that are faster to read together than one by one."""

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Read and cache these documents, so that `documents[i]` does not read them again."""


@runtime_checkable
class HasStart(Protocol):
    """Documents whose tokens are not bytes."""

    start: int
    """The token that opens each document."""


@runtime_checkable
class CountsBytes(Protocol):
    """Documents that know how many bytes of text their tokens stand for."""

    total_bytes: int
    """Bytes of all documents."""

    def num_bytes(self, index: int, begin: int, end: int) -> np.ndarray:
        """Return the bytes that the tokens `begin` to `end` of document `index` stand for, int32, (end - begin,)."""


class Text(Documents, Protocol):
    """Documents that identify the text from which they come."""

    def identity(self) -> dict:
        """Return an identification of the text as JSON, such as numbers of files and bytes and a digest of samples."""

    def stamp(self) -> str:
        """Return what changes whenever a file is written to, also between the samples; "" where files never are."""


def document_lengths(documents: Documents) -> np.ndarray:
    """Return the number of bytes (tokens) of every document, int64, shape (len(documents),)."""
    if isinstance(documents, KnowsLengths):
        return documents.lengths()
    return np.array([len(documents[i]) for i in range(len(documents))], dtype=np.int64)


def open_documents(config: DataConfig, split: str, say: Callable[[str], object] = print) -> Text:
    """Return the documents of one split of the text that `config` selects, as tokens if it names a tokenizer.

    A TFDS data set is prepared if necessary, and a text is tokenized once.

    A local text is split by `config.validation_fraction`. A TFDS data set is split into its own train and validation
    splits; without the latter, the test split or else the last `config.validation_fraction` of the train split is held
    out. Files that are left out are reported through `say`.

    Raises:
        ValueError: `split` is neither "train" nor "validation"; no data set has this name; the data set has no text
            feature; the text is empty.
        FileNotFoundError: `config.path` does not exist.
        BadRecordError: a record cannot be read, and `config.on_bad_record` is "stop"; also raised on later reads.
    """
    documents = open_bytes(config, split, say)
    if config.tokenizer is None:
        return documents
    return tokenized(documents, tokenizer_in(config.tokenizer), data_root(config.data_dir), config.closed)


def open_bytes(config: DataConfig, split: str, say: Callable[[str], object] = print) -> Text:
    """Return the documents of one split as bytes, whether or not the config names a tokenizer. Raises as above."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    bad = BadRecords(skip=config.on_bad_record == "skip")
    if config.path is not None:
        return open_local_text(config.path, config.validation_fraction, split, bad, say)
    documents = open_tfds_text(config.dataset, config.data_dir, config.validation_fraction, split, bad)
    # Checked here, before anything is compiled; `any` stops at the first document that is not empty.
    if not any(len(documents[i]) for i in range(len(documents))):
        raise ValueError(f"an empty data set: {documents.name} has {len(documents)} documents and not one byte")
    return documents
