"""Images, read as sequences."""

import dataclasses
import functools

import numpy as np

from recurrax import checks
from recurrax.tasks.base import Example, Task, at_steps, generator

SOURCES = ("digits", "mnist", "cifar10")
SCANS = ("pixel", "row")


@dataclasses.dataclass(frozen=True)
class SequentialImages(Task):
    """An image pixel by pixel, or row by row; at its end, which of ten classes is it of?

    Claim: long memory, if it starts from the right transitions: what was seen first decides as much as what was seen
    last (Le et al., 2015, arXiv 1504.00941; Gu et al., 2021, arXiv 2111.00396; Orvieto et al., 2023, arXiv 2303.06349).
    Chance: 1/10.
    Expected: on pixels of MNIST S4, S5 and LRU have 98 to 99.6 %, LSTM and GRU about 95 to 99 %; on those of CIFAR-10
    90 % against 60 %; from random transitions less than from HiPPO's.

    `digits` are scikit-learn's 1,797 of 8 x 8 pixels, which come with it; the others TFDS must have downloaded.
    `length` is what the image has: 0, the default, and nothing else.
    """

    length: int = 0
    source: str = "digits"
    """digits, mnist or cifar10."""
    scan: str = "pixel"
    """pixel: a step per pixel; row: a step per row."""
    split: str = "train"
    """train: images in a random order, by the seed; test: the index is the image's."""

    num_classes = 10
    chance = 0.1
    may_be_zero = ("length",)

    def __post_init__(self):
        checks.choice("source", self.source, SOURCES)
        checks.choice("scan", self.scan, SCANS)
        checks.choice("split", self.split, ("train", "test"))
        height, width, _ = SIZES[self.source]
        steps = height if self.scan == "row" else height * width
        if self.length not in (0, steps):
            raise ValueError(f"{self.source} by {self.scan} has {steps} steps, not length {self.length}")
        object.__setattr__(self, "length", steps)

    @property
    def features(self):
        _, width, channels = SIZES[self.source]
        return channels * (width if self.scan == "row" else 1)

    @property
    def count(self) -> int:
        """Images of the split."""
        return len(images(self.source, self.split)[1])

    def held_out(self):
        return dataclasses.replace(self, split="test")

    def example(self, seed, index):
        pixels, labels = images(self.source, self.split)
        number = index % len(labels) if self.split == "test" else generator(seed, index).integers(len(labels))
        inputs = (pixels[number].astype(np.float32) - 0.5).reshape(self.length, self.features)
        return Example(inputs, *at_steps(self.length, -1, labels[number]))


SIZES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@functools.cache
def images(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split, between 0 and 1, and their classes.

    Raises:
      ImportError: the package that has them is not installed.
    """
    if source == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("these digits come with scikit-learn: pip install scikit-learn") from error
        pixels, labels = load_digits(return_X_y=True)
        # Neighbours are of one writer's hand: every fifth block of 32 is held out, not every fifth image.
        held_out = np.arange(len(labels)) // 32 % 5 == 4
        chosen = held_out if split == "test" else ~held_out
        return (pixels[chosen] / 16).reshape(-1, 8, 8, 1), labels[chosen].astype(np.int32)
    import tensorflow_datasets as tfds

    records = tfds.data_source(source, split=split)
    pixels, labels = zip(*((record["image"], record["label"]) for record in records), strict=True)
    return np.stack(pixels).astype(np.float32) / 255, np.array(labels, np.int32)
