"""States that are counted: parity, counting modulo n, arithmetic modulo n. The answer is asked for at every step."""

import dataclasses

import numpy as np

from recurrax.tasks.base import Example, Task, at_steps, generator


@dataclasses.dataclass(frozen=True)
class Modular(Task):
    """Answers are numbers below `modulus`."""

    modulus: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.modulus < 2:
            raise ValueError(f"modulus must be at least 2, got {self.modulus}")

    @property
    def num_classes(self):
        return self.modulus

    @property
    def chance(self):
        return 1 / self.modulus


@dataclasses.dataclass(frozen=True)
class ModularCounting(Modular):
    """Bits; the answer is the number of ones so far, modulo `modulus`.

    Claim: counting modulo n is a rotation by 2 pi / n per one, which takes transitions that depend on the input and
    have complex eigenvalues, or products of reflections (Grazzi et al., 2024, arXiv 2411.12537).
    Chance: 1 / modulus.
    Expected: recurrences with transitions in (0, 1) learn the trained length at best. Delta rules with beta up to 2
    reflect, and count modulo 2; products of two per token rotate, and count modulo any n.
    """

    modulus: int = 3

    vocab_size = 2

    def example(self, seed, index):
        inputs = generator(seed, index).integers(2, size=self.length).astype(np.int32)
        return Example(inputs, (np.cumsum(inputs) % self.modulus).astype(np.int32), np.ones(self.length, np.float32))


@dataclasses.dataclass(frozen=True)
class Parity(ModularCounting):
    """Bits; the answer is whether there was an odd number of ones so far.

    Claim: parity needs a transition with a negative eigenvalue, at the ones (Sarrof et al., 2024, arXiv 2405.17394;
    Grazzi et al., 2024, arXiv 2411.12537).
    Chance: 1/2.
    Expected: transitions in (0, 1), beta in (0, 1) among them, fail beyond the trained length; beta in (0, 2) solves it
    at any length.
    """

    modulus: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.modulus != 2:
            raise ValueError(f"parity is counting modulo 2, not {self.modulus}; take ModularCounting")


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(Modular):
    """Numbers below `modulus` with +, - or * between them, worked out from left to right; asked for after each number.

    Claim: of the tasks without brackets that finite automata solve, the one that products make hard: a factor that has
    no inverse loses where one came from, so the transitions are no group (Deletang et al., 2022, arXiv 2207.02098,
    where * goes before + and -; Grazzi et al., 2024, arXiv 2411.12537).
    Chance: 1 / modulus; a little more for who answers 0, which products make likelier.
    Expected: recurrences with transitions in (0, 1) fail beyond the trained length; products of delta steps do best.
    """

    modulus: int = 5

    @property
    def vocab_size(self):
        return self.modulus + 3

    def example(self, seed, index):
        rng = generator(seed, index)
        inputs = rng.integers(self.modulus, size=self.length).astype(np.int32)
        signs = rng.integers(3, size=self.length // 2)
        inputs[1::2] = self.modulus + signs
        value, answers = int(inputs[0]), [int(inputs[0])]
        for sign, number in zip(signs.tolist(), inputs[2::2].tolist(), strict=False):
            value = (value + number, value - number, value * number)[sign] % self.modulus
            answers.append(value)
        return Example(inputs, *at_steps(self.length, np.arange(0, self.length, 2), answers))
