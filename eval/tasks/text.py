"""Real text as a task: what a small language model makes of the standard library's sources."""

import dataclasses
import functools
import sysconfig
from pathlib import Path

import numpy as np

from recurrax import checks
from recurrax.tasks import Example, Task
from train.data.python_stdlib import source_paths, split_of


@dataclasses.dataclass(frozen=True)
class Language(Task):
    """Bytes of this interpreter's standard library, from any place of any file; the next byte is asked for.

    Claim: in language models differ less than in recall, and what they gain from a longer context shows whether they
    carry beyond the trained length (Arora et al., 2023, arXiv 2312.04927; Yang et al., 2023, arXiv 2312.06635).
    Chance: 1/256.
    Expected: all do about as well at the trained length; beyond it, those that decay go on and the others get worse.
    """

    length: int = 128
    split: str = "train"

    vocab_size = 256
    num_classes = 256
    chance = 1 / 256

    def __post_init__(self):
        super().__post_init__()
        checks.choice("split", self.split, ("train", "validation"))

    def held_out(self):
        return dataclasses.replace(self, split="validation")

    def example(self, seed, index):
        whole = text(self.split)
        start = np.random.default_rng((seed, index)).integers(len(whole) - self.length)
        window = whole[start : start + self.length + 1].astype(np.int32)
        return Example(window[:-1], window[1:], np.ones(self.length, np.float32))


@functools.cache
def text(split: str) -> np.ndarray:
    """All files of a split, one after the other."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts = [(root / path).read_bytes() for path in source_paths(root) if split_of(path) == split]
    return np.frombuffer(b"\n".join(parts), np.uint8)
