"""Recall by association: what came after this the last time it was seen?"""

import dataclasses

import numpy as np

from recurrax.tasks.base import Example, Task, at_steps, generator


@dataclasses.dataclass(frozen=True)
class InductionHeads(Task):
    """Random symbols; one comes after a sign that appears once, and is asked for where the sign appears again, at the
    end.

    Claim: attention and selective recurrences look up what followed, at lengths far beyond those of training (Olsson et
    al., 2022, arXiv 2209.11895; Gu and Dao, 2023, arXiv 2312.00752, section 4.1.2).
    Chance: 1 / num_symbols.
    Expected: Mamba extrapolates to lengths thousands of times as long; attention solves the trained length and, without
    positions that generalise, not much more; time-invariant recurrences fail.
    """

    num_symbols: int = 16
    """Different ones; the sign is one more."""

    def __post_init__(self):
        super().__post_init__()
        if self.length < 3:
            raise ValueError(f"sign, symbol and sign are 3 steps, more than length {self.length}")

    @property
    def vocab_size(self):
        return self.num_symbols + 1

    num_classes = vocab_size

    @property
    def chance(self):
        return 1 / self.num_symbols

    def example(self, seed, index):
        rng = generator(seed, index)
        inputs = rng.integers(self.num_symbols, size=self.length).astype(np.int32)
        place = rng.integers(self.length - 2)
        inputs[[place, -1]] = self.num_symbols
        return Example(inputs, *at_steps(self.length, -1, inputs[place + 1]))


@dataclasses.dataclass(frozen=True)
class MQAR(Task):
    """Multi-query associative recall: pairs of key and value, then keys, each of which asks for its value.

    The distance of a question from the pairs follows the power law g^(power - 1) in places g of two steps; between the
    questions are random tokens.
    Claim: at equal loss in language, models differ in recall, and a recurrence's is bounded by its state (Arora et al.,
    2023, arXiv 2312.04927, whose settings these are).
    Chance: 1 / number of values; 1 / num_pairs for who only knows which values there were.
    Expected: attention solves it at any width; delta rules with as many key channels as pairs; gated linear attention
    and Mamba fall behind as pairs outnumber their state; a diagonal recurrence without keys fails.
    """

    num_pairs: int = 4
    """Keys, each with a value."""
    num_tokens: int = 8192
    """The vocabulary: keys are from its lower half, values from its upper."""
    power: float = 0.01
    """Of the law of distances; 1 is uniform."""
    random_between: bool = True
    """Whether steps between questions have random tokens, or all the token 0."""

    num_rebinds = 0
    """Pairs more than keys: a key that comes again has a new value."""

    def __post_init__(self):
        super().__post_init__()
        keys, values = self.num_tokens // 2 - 1, self.num_tokens - self.num_tokens // 2
        if self.num_pairs > keys or self.num_writes > values:
            raise ValueError(
                f"{self.num_tokens} tokens are {keys} keys and {values} values: too few for {self.num_pairs} keys with "
                f"{self.num_writes} values"
            )
        if self.length < 2 * self.num_writes + 2 * self.num_pairs:
            raise ValueError(
                f"{self.num_writes} pairs and {self.num_pairs} questions need "
                f"{2 * self.num_writes + 2 * self.num_pairs} steps, more than length {self.length}"
            )

    @property
    def num_writes(self) -> int:
        """Pairs that are shown."""
        return self.num_pairs + self.num_rebinds

    @property
    def vocab_size(self):
        return self.num_tokens

    num_classes = vocab_size

    @property
    def chance(self):
        return 1 / (self.num_tokens - self.num_tokens // 2)

    def example(self, seed, index):
        rng = generator(seed, index)
        half, shown = self.num_tokens // 2, 2 * self.num_writes
        keys = 1 + rng.choice(half - 1, self.num_pairs, replace=False)
        values = half + rng.choice(self.num_tokens - half, self.num_writes, replace=False)
        written = keys
        if self.num_rebinds:
            written = rng.permutation(np.concatenate([keys, rng.choice(keys, self.num_rebinds)]))
        last = dict(zip(written.tolist(), values.tolist(), strict=True))  # of equal keys the last one stays

        inputs = np.zeros(self.length, np.int32)
        if self.random_between:
            inputs = rng.integers(self.num_tokens, size=self.length).astype(np.int32)
        inputs[:shown:2], inputs[1:shown:2] = written, values
        places = (self.length - shown) // 2
        law = np.arange(1, places + 1) ** (self.power - 1)
        steps = shown + 2 * rng.choice(places, self.num_pairs, replace=False, p=law / law.sum())
        inputs[steps] = keys
        return Example(inputs, *at_steps(self.length, steps, [last[key] for key in keys.tolist()]))


@dataclasses.dataclass(frozen=True)
class ForgettingMQAR(MQAR):
    """MQAR whose keys are bound again: the answer is a key's last value.

    Claim: to overwrite, a state must forget one key and keep the others, which the delta rule does and a decay does not
    (Yang et al., 2024, arXiv 2406.06484; the zoology of arXiv 2312.04927 has a task of this name).
    Chance: 1 / number of values.
    Expected: attention and delta rules solve it; additive states answer with a mixture of a key's values.
    """

    num_rebinds: int = 4
