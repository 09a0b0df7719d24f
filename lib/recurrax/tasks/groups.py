"""Word problems of groups: the product of all elements so far."""

import dataclasses
import functools
import itertools

import numpy as np

from recurrax import checks
from recurrax.tasks.base import Example, Task, generator

GROUPS = ("Z60", "S3", "S4", "A5", "S5")
LETTERS = ("all", "swaps", "generators")


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
    letters: str = "all"
    """What words are made of: all elements; swaps of two things, and the element that moves nothing; or generators, two
    elements that have all others as products."""

    def __post_init__(self):
        super().__post_init__()
        checks.choice("group", self.group, GROUPS)
        checks.choice("letters", self.letters, LETTERS)
        if len(self.alphabet) < 2:
            raise ValueError(f"no element of {self.group} swaps two things and moves no other")

    @property
    def alphabet(self) -> np.ndarray:
        """The letters, as numbers of elements."""
        if self.letters == "generators":
            return generators(self.group)
        moved = moves(self.group)
        return np.arange(len(moved)) if self.letters == "all" else np.flatnonzero(moved <= 2)

    @property
    def vocab_size(self):
        return len(products(self.group))

    num_classes = vocab_size

    @property
    def chance(self):
        return 1 / self.num_classes

    def example(self, seed, index):
        inputs = generator(seed, index).choice(self.alphabet, self.length).astype(np.int32)
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


@functools.cache
def generators(group: str) -> np.ndarray:
    """Two elements: of Z60 one step and one step back, else the first things in a ring, as few as can be, and all."""
    if group == "Z60":
        return np.array([1, 59])
    count = int(group[1:])
    rings = (tuple((i + 1) % size if i < size else i for i in range(count)) for size in (2 + (group[0] == "A"), count))
    return np.array([elements(group).index(ring) for ring in rings])


def _is_even(permutation):
    inversions = sum(a > b for a, b in itertools.combinations(permutation, 2))
    return inversions % 2 == 0
