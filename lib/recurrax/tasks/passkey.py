"""A number, said once in a long and dull text."""

import dataclasses

import numpy as np

from recurrax.tasks.base import Example, Task, at_steps, generator

SAID = "The pass key is {key}. Remember it. "
ASKED = "\nWhat is the pass key? The pass key is "
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


@dataclasses.dataclass(frozen=True)
class Passkey(Task):
    """Filler, "The pass key is 52913.", filler, "What is the pass key? The pass key is ": bytes. The digits are asked
    for.

    Claim: what matters is found at any depth of a text longer than those of training (Mohtashami and Jaggi, 2023, arXiv
    2305.16300, whose words these are).
    Chance: 1/10 per digit.
    Expected: attention and hybrids find it within their window; recurrences as far as their decays let them.
    """

    length: int = 256
    """Bytes, the digits of the answer but the last counted."""
    num_digits: int = 5

    vocab_size = 256
    num_classes = 256
    chance = 0.1

    def __post_init__(self):
        super().__post_init__()
        needed = len(SAID.format(key="0" * self.num_digits)) + len(ASKED) + self.num_digits - 1
        if self.length < needed:
            raise ValueError(f"key and question are {needed} bytes, more than length {self.length}")

    def example(self, seed, index):
        rng = generator(seed, index)
        key = "".join(map(str, rng.integers(10, size=self.num_digits)))
        said, end = SAID.format(key=key), ASKED + key[:-1]
        filler = (FILLER * (self.length // len(FILLER) + 1))[: self.length - len(said) - len(end)]
        # Between two sentences, or at either end.
        places = [0, *(i + 2 for i in range(len(filler)) if filler[i : i + 2] == ". ")]
        place = int(rng.choice(places))
        text = filler[:place] + said + filler[place:] + end
        inputs = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        digits = np.frombuffer(key.encode(), np.uint8)
        return Example(inputs, *at_steps(self.length, np.arange(-self.num_digits, 0), digits))
