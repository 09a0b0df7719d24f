"""Word problems of groups: the product of all elements so far."""

import dataclasses
import functools
import itertools

import numpy as np

from recurrax import checks
from recurrax.tasks.base import Example, Task, generator

GROUPS = ("Z60", "S3", "S4", "A5", "S5")


@dataclasses.dataclass(frozen=True)
class GroupWord(Task):
    """Elements of a finite group; the answer is their product so far, the newest on the left.

    Claim: which groups a layer can follow is written in its transitions (Merrill et al., 2024, arXiv 2404.08819). With
    products of R Householder matrices per token an orthogonal matrix g takes R >= rank(g - 1): S3 in the plane, S4 and
    A5 as rotations of space need 2, S5 in four dimensions needs 4 in one layer (Siems et al., 2025, arXiv 2502.10297).
    Chance: 1 / number of elements.
    Expected: positive diagonal transitions follow none beyond the trained length. Complex diagonal ones can follow Z60,
    which is abelian, and no other. A5 and S5 are not solvable: no fixed depth of diagonal layers does.
    """

    group: str = "S3"
    """Z60: numbers modulo 60; S3, S4, S5: permutations; A5: even permutations."""
    max_moved: int | None = None
    """Words of permutations that move at most so many things; 2: swaps, and doing nothing. None: of all."""

    def __post_init__(self):
        super().__post_init__()
        checks.choice("group", self.group, GROUPS)
        if self.max_moved is not None and len(self.letters) < 2:
            raise ValueError(f"no element of {self.group} but one moves at most {self.max_moved} things")

    @property
    def letters(self) -> np.ndarray:
        """The elements that words are made of."""
        moved = moves(self.group)
        return np.arange(len(moved)) if self.max_moved is None else np.flatnonzero(moved <= self.max_moved)

    @property
    def vocab_size(self):
        return len(products(self.group))

    num_classes = vocab_size

    @property
    def chance(self):
        return 1 / self.num_classes

    def example(self, seed, index):
        inputs = generator(seed, index).choice(self.letters, self.length).astype(np.int32)
        table, state, answers = products(self.group), 0, []
        for element in inputs.tolist():
            state = table[element][state]
            answers.append(state)
        return Example(inputs, np.array(answers, np.int32), np.ones(self.length, np.float32))


@functools.cache
def elements(group: str) -> tuple[tuple[int, ...], ...]:
    """As maps of 0 .. n - 1, a tuple of images each, in lexicographic order: the first moves nothing."""
    if group == "Z60":
        return tuple(tuple((i + shift) % 60 for i in range(60)) for shift in range(60))
    all_of_them = itertools.permutations(range(int(group[1:])))
    return tuple(p for p in all_of_them if group[0] == "S" or _is_even(p))


@functools.cache
def products(group: str) -> tuple[tuple[int, ...], ...]:
    """The multiplication table: products(g)[a][b] is the number of a after b."""
    numbers = {p: i for i, p in enumerate(elements(group))}
    return tuple(tuple(numbers[tuple(a[i] for i in b)] for b in elements(group)) for a in elements(group))


@functools.cache
def moves(group: str) -> np.ndarray:
    """How many things each element moves."""
    return np.array([sum(i != place for place, i in enumerate(p)) for p in elements(group)])


def _is_even(permutation):
    inversions = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return inversions % 2 == 0
