"""Provides images and other arrays of TFDS as sequences, with a class or a number as the answer."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import grain
import numpy as np
import tensorflow_datasets as tfds

from recurrax import checks
from recurrax.models import BackboneConfig
from train.data.examples import HeldOutRows, Row, at_last_step
from train.data.prepare import prepare
from train.data.tfds_text import find_builder, split_ranges

SCANS = ("pixel", "row")


@dataclasses.dataclass(frozen=True)
class ArrayData:
    """A TFDS data set of images or arrays. Inputs are vectors: an image's are scaled to [-0.5, 0.5].

    An image (H, W, C) is read pixel by pixel or row by row, an array (T,) or (T, F) step by step. A scalar answer is
    that of the last step; an array of answers (T,) has one for each step.
    """

    dataset: str = "mnist"
    """TFDS name."""
    inputs: str = "image"
    """Feature that is read."""
    targets: str = "label"
    """Feature that is predicted: integers are classes, floats are numbers."""
    scan: str = "pixel"
    """Order in which an image is read: "pixel" is a step per pixel, "row" a step per row."""
    data_dir: str | None = None
    """Directory of data prepared by TFDS; None: ~/tensorflow_datasets."""
    batch_size: int = 32
    """Rows per step over all hosts (B)."""
    validation_fraction: float = 0.05
    """Fraction that is held out of a data set without a validation or test split."""

    packed: ClassVar[bool] = True
    """Sequences are independent rows."""

    def __post_init__(self):
        checks.choice("data.scan", self.scan, SCANS)
        checks.positive(self, "batch_size")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"data.validation_fraction must be between 0 and 1, got {self.validation_fraction}")

    @property
    def kind(self) -> str:
        """The kind of data, for objectives."""
        return "classes" if self._first["targets"].dtype == np.int32 else "numbers"

    @property
    def sequence_length(self) -> int:
        """Steps of a sequence (T)."""
        return self._first["inputs"].shape[0]

    @property
    def features(self) -> int:
        """Numbers of an input vector."""
        return self._first["inputs"].shape[1]

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the dtype and the shape after (B, T) of every array of a batch."""
        return {name: (str(array.dtype), array.shape[1:]) for name, array in self._first.items()}

    def check(self, model: BackboneConfig) -> None:
        """Raise ValueError unless the model reads vectors and has an output for each class."""
        if model.vocab_size is not None:
            raise ValueError(f"data {self.dataset} are vectors; set model.vocab_size to None, got {model.vocab_size}")
        feature = _builder(self.dataset, self.data_dir).info.features[self.targets]
        wanted, has = getattr(feature, "num_classes", None), getattr(model, "num_classes", None)
        if wanted is not None and has is not None and has < wanted:
            raise ValueError(f"model.num_classes must be {wanted} for {self.dataset}, got {has}")

    def open(self, say=print) -> tuple["ArrayRows", HeldOutRows, dict]:
        """Return the rows of training, the held-out ones, and an identification of both as JSON."""
        del say
        (name, start, stop), (held_out, first, last) = _splits(self)
        train, test = _source(self.dataset, self.data_dir, name), _source(self.dataset, self.data_dir, held_out)
        rows = ArrayRows(self, name, start, stop, train)
        identity = {"dataset": _builder(self.dataset, self.data_dir).info.full_name}
        return (
            rows,
            HeldOutRows(f"{self.dataset}:{held_out}", last - first, lambda i: self.row(test[first + i])),
            {"train": {**identity, "rows": stop - start}, "validation": {**identity, "rows": last - first}},
        )

    def row(self, record: dict) -> Row:
        """Return a record as a row.

        Raises:
          ValueError: the record lacks a feature, or its arrays have other shapes than the first one's.
        """
        row = _row(self, record)
        if any(row[name].shape != array.shape for name, array in self._first.items()):
            shapes = ({name: array.shape for name, array in each.items()} for each in (self._first, row))
            raise ValueError("all sequences of {} must have one length: {} and {}".format(self.dataset, *shapes))
        return row

    @property
    def _first(self) -> Row:
        return _first_row(self)


@dataclasses.dataclass(frozen=True)
class ArrayRows:
    """Rows start .. stop of a split, in the form of `Rows`."""

    config: ArrayData
    split: str
    start: int
    stop: int
    records: Sequence

    def __len__(self):
        return self.stop - self.start

    def __str__(self):
        return f"{len(self):,} sequences of {self.config.dataset}"

    def order(self, seed: int):
        """Return the index of each element of the endless sequence of epochs, each a permutation of all rows."""
        return grain.MapDataset.range(len(self)).seed(seed).shuffle().repeat()

    def take(self, indices: Sequence[int]) -> list[Row]:
        """Return several rows, which are read together."""
        found = self.records.__getitems__([self.start + int(i) for i in indices])
        return [self.config.row(record) for record in found]


@functools.lru_cache(maxsize=4)
def _builder(dataset: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    prepare(find_builder(dataset, data_dir))
    return find_builder(dataset, data_dir)  # made again, to find the files


@functools.lru_cache(maxsize=4)
def _source(dataset: str, data_dir: str | None, split: str):
    return _builder(dataset, data_dir).as_data_source(split, file_format="array_record")


@functools.lru_cache(maxsize=4)
def _first_row(config: ArrayData) -> Row:
    (name, start, _), _ = _splits(config)
    return _row(config, _source(config.dataset, config.data_dir, name)[start])


def _splits(config: ArrayData):
    """Return (split, start, stop) of training and of held-out rows."""
    ranges = split_ranges(config.dataset, _builder(config.dataset, config.data_dir), config.validation_fraction)
    if not ranges:
        raise ValueError(f"dataset={config.dataset!r} has fewer than two records: too little to hold one out")
    return ranges["train"], ranges["validation"]


def _row(config: ArrayData, record: dict) -> Row:
    for name in (config.inputs, config.targets):
        if name not in record:
            raise ValueError(f"data set {config.dataset} has no feature {name!r}; it has {', '.join(record)}")
    inputs, target = np.asarray(record[config.inputs]), np.asarray(record[config.targets])
    if inputs.ndim == 3:
        scale = np.float32(255 if inputs.dtype == np.uint8 else 1)
        height, width, channels = inputs.shape
        shape = (height, width * channels) if config.scan == "row" else (height * width, channels)
        inputs = (inputs.astype(np.float32) / scale - np.float32(0.5)).reshape(shape)
    elif inputs.ndim in (1, 2):
        inputs = inputs.astype(np.float32).reshape(len(inputs), -1)
    else:
        raise ValueError(f"data.inputs {config.inputs} must be an image or an array of steps, got shape {inputs.shape}")
    target = target.astype(np.int32 if target.dtype.kind in "iub" else np.float32)
    if target.ndim == 0:
        return {"inputs": inputs, **at_last_step(len(inputs), target)}
    if target.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"data.targets {config.targets} must be a scalar or one per step, got shape {target.shape}")
    return {"inputs": inputs, "targets": target, "weights": np.ones(len(inputs), np.float32)}
