"""Provides `DataConfig`, which selects the text and the sizes of its batches."""

import dataclasses
from typing import ClassVar

from recurrax.models import BackboneConfig
from recurrax.pretrained import Tokenizer
from train.data.tokens import tokenizer_in
from train.data.vocabulary import Bytes

ON_BAD_RECORD = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Selects the text and how it is divided into batches.

    Raises:
        ValueError: a size is not in [1, 2**31), `validation_fraction` is not between 0 and 1, `on_bad_record` is not
            one of its choices, or neither `dataset` nor `path` is given.
    """

    dataset: str = "python_stdlib"
    """TFDS name of a text data set (python_stdlib, tiny_shakespeare, lm1b, ...); used when `path` is None."""
    path: str | None = None
    """Path of a local text file or a folder of text files; None: `dataset` is used."""
    data_dir: str | None = None
    """Directory of data prepared by TFDS and of tokenized texts; None: ~/tensorflow_datasets."""
    tokenizer: str | None = None
    """Directory with the tokenizer.json and config.json of a published checkpoint; None: tokens are bytes."""
    closed: bool = True
    """Whether the tokenizer's closing token, if there is one, ends each document, as a target."""
    packed: bool = True
    """Whether rows continue with the next document where one ends; otherwise each row is of one document."""
    sequence_length: int = 256
    """Tokens per row (T)."""
    batch_size: int = 32
    """Rows per step over all hosts (B)."""
    on_bad_record: str = "stop"
    """Action on an unreadable record (a damaged or removed file): "stop", or "skip", which reports it and goes on."""
    validation_fraction: float = 0.05
    """Fraction that is held out of a local text, or of a data set without a validation or test split."""

    kind: ClassVar[str] = "text"
    """The kind of data, for objectives."""
    features: ClassVar[None] = None
    """Numbers of an input vector; None: inputs are tokens."""

    def __post_init__(self) -> None:
        for field in ("sequence_length", "batch_size"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise ValueError(f"{field}={value!r}: expected a positive integer below 2**31")
        if self.on_bad_record not in ON_BAD_RECORD:
            raise ValueError(f"on_bad_record={self.on_bad_record!r}: choose one of {', '.join(ON_BAD_RECORD)}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r}: expected a number between 0 and 1")
        if not self.dataset and self.path is None:
            raise ValueError(f"dataset={self.dataset!r}: expected a TFDS name, for example 'python_stdlib', or a path")

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the dtype and the shape after (B, T) of every array of a batch."""
        tokens, number = ("int32", ()), ("float32", ())
        fields = {"inputs": tokens, "targets": tokens, "reset": ("bool", ()), "weights": number}
        return fields if self.tokenizer is None else {**fields, "bytes": number}

    @property
    def vocabulary(self) -> Bytes | Tokenizer:
        """What encodes and decodes the text. Raises ValueError if there is no such tokenizer."""
        return Bytes() if self.tokenizer is None else tokenizer_in(self.tokenizer)

    def check(self, model: BackboneConfig) -> None:
        """Raise ValueError if the model's vocabulary is too small, or the tokenizer cannot be read."""
        if model.vocab_size is None:
            raise ValueError("model.vocab_size is None, but the data are tokens")
        self.vocabulary.check(model.vocab_size)
