"""Provides `DataConfig`, which selects the text and the sizes of its batches."""

import dataclasses
from typing import ClassVar

from recurrax.models import BackboneConfig
from train.data.vocabulary import VOCAB_SIZE

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
    """Directory of data prepared by TFDS; None: ~/tensorflow_datasets."""
    sequence_length: int = 256
    """Tokens per row (T); a token is a byte."""
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
        return {"inputs": ("int32", ()), "targets": ("int32", ()), "reset": ("bool", ()), "weights": ("float32", ())}

    def check(self, model: BackboneConfig) -> None:
        """Raise ValueError if the model's vocabulary is too small."""
        if model.vocab_size is None or model.vocab_size < VOCAB_SIZE:
            raise ValueError(f"model.vocab_size {model.vocab_size} is less than the {VOCAB_SIZE} of the byte tokens")
