"""Nested lists of operations on digits, read from left to right."""

import dataclasses

import numpy as np

from recurrax.tasks.base import Example, Task, at_steps, generator

OPERATIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda digits: (sorted(digits)[(len(digits) - 1) // 2] + sorted(digits)[len(digits) // 2]) // 2,
    "[SM": lambda digits: sum(digits) % 10,
}
TOKENS = ("pad", *map(str, range(10)), *OPERATIONS, "]")


@dataclasses.dataclass(frozen=True)
class ListOps(Task):
    """[MAX 2 9 [MIN 4 7 ] 0 ]: the minimum, maximum, median (rounded down) or sum modulo 10 of digits and lists.

    Claim: a hierarchy of unknown depth is worked out in one pass (Nangia and Bowman, 2018, arXiv 1804.06028; Tay et
    al., 2020, arXiv 2011.04006, whose lists have up to 10 parts and depth, and 500 to 2,000 tokens).
    Chance: 1/10; who always answers 0 or 9 is right more often, minima and maxima being what they are.
    Expected: in the long range arena attention has 36 %, S4 and S5 60 %: far from solved by all.
    """

    length: int = 128
    """The longest list; shorter ones are filled up."""
    max_depth: int = 4
    """Lists in lists, the outermost counted."""
    max_parts: int = 5
    """Of a list; there are at least 2."""
    min_length: int = 4
    """The shortest list."""

    vocab_size = len(TOKENS)
    num_classes = 10
    chance = 0.1

    def __post_init__(self):
        super().__post_init__()
        if self.max_parts < 2:
            raise ValueError(f"a list has 2 parts or more, got max_parts {self.max_parts}")
        if not 4 <= self.min_length <= self.length:
            raise ValueError(f"lists have 4 tokens or more, got min_length {self.min_length} and length {self.length}")
        longest = self.longest
        if longest < self.min_length:
            raise ValueError(
                f"with max_depth {self.max_depth}, max_parts {self.max_parts} the longest list has {longest} tokens, "
                f"fewer than min_length {self.min_length}"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest list there could be, were there no limit to its length."""
        tokens = 1
        for _ in range(self.max_depth):
            tokens = 2 + self.max_parts * tokens
        return tokens

    def example(self, seed, index):
        rng = generator(seed, index)

        def draw(depth):
            """The tokens of a list, and its value."""
            operation = rng.integers(len(OPERATIONS))
            tokens, values = [11 + operation], []
            for _ in range(rng.integers(2, self.max_parts + 1)):
                if depth < self.max_depth and rng.random() < 0.35:
                    inner, value = draw(depth + 1)
                    tokens += inner
                else:
                    value = int(rng.integers(10))
                    tokens.append(1 + value)
                values.append(value)
            return [*tokens, TOKENS.index("]")], list(OPERATIONS.values())[operation](values)

        for _ in range(10_000):
            tokens, value = draw(1)
            if self.min_length <= len(tokens) <= self.length:
                inputs = np.zeros(self.length, np.int32)
                inputs[: len(tokens)] = tokens
                return Example(inputs, *at_steps(self.length, len(tokens) - 1, value))
        raise ValueError(f"none of 10,000 lists has {self.min_length} to {self.length} tokens; widen the range")
