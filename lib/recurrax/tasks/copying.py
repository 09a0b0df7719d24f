"""Copying: a few symbols are shown, and asked for at the end."""

import dataclasses

import numpy as np

from recurrax.tasks.base import Example, Task, at_steps, generator

BLANK, GO, FIRST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Copying(Task):
    """`num_items` symbols, blanks, a sign to go, and the symbols again, in their order.

    Claim: a linear time-invariant recurrence can hold a sequence over a delay that is always the same (Arjovsky et al.,
    2015, arXiv 1511.06464; Orvieto et al., 2023, arXiv 2303.06349).
    Chance: 1 / num_symbols.
    Expected: LRU, S4 and S5 solve it, as everything else does that can tell steps apart; delays other than the trained
    one are solved by who selects, not by who counts.
    """

    num_items: int = 8
    """Symbols to hold."""
    num_symbols: int = 8
    """Different ones."""

    def __post_init__(self):
        super().__post_init__()
        if self.length < 2 * self.num_items:
            raise ValueError(
                f"{self.num_items} items are shown and asked for in 2 * {self.num_items} steps, more than length "
                f"{self.length}"
            )

    @property
    def vocab_size(self):
        return FIRST + self.num_symbols

    num_classes = vocab_size

    @property
    def chance(self):
        return 1 / self.num_symbols

    def places(self, rng):
        """The steps at which items are shown."""
        del rng
        return np.arange(self.num_items)

    def example(self, seed, index):
        rng = generator(seed, index)
        items = rng.integers(FIRST, self.vocab_size, self.num_items)
        inputs = np.zeros(self.length, np.int32)
        inputs[self.places(rng)] = items
        inputs[-self.num_items] = GO
        return Example(inputs, *at_steps(self.length, np.arange(-self.num_items, 0), items))


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Copying):
    """The same with blanks between the symbols, as many as chance has it.

    Claim: what to hold must depend on the input (Gu and Dao, 2023, arXiv 2312.00752, section 3.1; Jing et al., 2019).
    Chance: 1 / num_symbols.
    Expected: Mamba and all layers whose gates or keys depend on the input solve it; LRU, S4 and S5, whose recurrences
    are the same at every step, do not.
    """

    def places(self, rng):
        return np.sort(rng.choice(self.length - self.num_items, self.num_items, replace=False))
