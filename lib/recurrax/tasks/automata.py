"""Languages in context: words of an automaton that was never seen before."""

import dataclasses

import numpy as np

from recurrax import checks
from recurrax.tasks.base import Example, Task, generator

SEPARATOR = 0


@dataclasses.dataclass(frozen=True)
class Automaton:
    """From each state a few edges, each with a symbol, all equally likely. State 0 is where words start."""

    symbols: tuple[list[int], ...]
    """Of the edges of each state."""
    targets: tuple[list[int], ...]
    """The states they lead to."""


@dataclasses.dataclass(frozen=True)
class RandomAutomata(Task):
    """Words of a random automaton, one after the other, with separators; the next symbol is asked for.

    The settings are RegBench's: 4 to 12 states with 1 to 4 edges each, of 4 to 18 symbols, words of up to 50.
    Claim: learning a language in context takes more than recall: n-gram heads, which attention forms and recurrences
    form less well (Akyurek et al., 2024, arXiv 2401.12973).
    Chance: a random symbol continues the word with probability (1 + max_edges) / 2 / num_symbols, about.
    Expected: attention first, then selective recurrences, time-invariant ones last, in accuracy (is the likeliest
    symbol one that the automaton allows?) and in total variation distance to its distribution.
    """

    length: int = 256
    num_symbols: int = 18
    """Symbols there are over all automata; the separator is one more."""
    min_states: int = 4
    max_states: int = 12
    max_edges: int = 4
    """Of a state; there is at least one, and they lead to different states."""
    max_word: int = 50
    """Symbols of the longest words; lengths are uniform."""
    num_automata: int | None = None
    """As many automata are used again and again; None: each sequence has its own."""

    def __post_init__(self):
        super().__post_init__()
        checks.ordered(self, "min_states", "max_states")
        checks.ordered(self, "max_edges", "num_symbols")
        if self.min_states < 2:
            raise ValueError(f"edges lead to other states: min_states must be at least 2, got {self.min_states}")

    @property
    def vocab_size(self):
        return self.num_symbols + 1

    num_classes = vocab_size

    @property
    def chance(self):
        return (1 + self.max_edges) / 2 / self.num_symbols

    def automaton(self, seed: int, index: int) -> Automaton:
        """The one of this sequence."""
        number = index if self.num_automata is None else index % self.num_automata
        rng = np.random.default_rng((seed, number, 1))
        states = rng.integers(self.min_states, self.max_states + 1)
        alphabet = 1 + rng.permutation(self.num_symbols)[: rng.integers(self.max_edges, self.num_symbols + 1)]
        symbols, targets = [], []
        for state in range(states):
            edges = rng.integers(1, min(self.max_edges, states - 1) + 1)
            symbols.append(rng.choice(alphabet, edges, replace=False).tolist())
            targets.append(rng.choice(np.delete(np.arange(states), state), edges, replace=False).tolist())
        return Automaton(tuple(symbols), tuple(targets))

    def example(self, seed, index):
        rng, automaton = generator(seed, index), self.automaton(seed, index)
        tokens, states = [SEPARATOR], [0]  # and the state after each token
        chances = rng.random(self.length + 1)
        while len(tokens) <= self.length:
            state = 0
            for _ in range(min(rng.integers(1, self.max_word + 1), self.length + 1 - len(tokens))):
                edge = int(chances[len(tokens) - 1] * len(automaton.symbols[state]))
                tokens.append(automaton.symbols[state][edge])
                state = automaton.targets[state][edge]
                states.append(state)
            tokens.append(SEPARATOR)
            states.append(0)
        inputs, following = np.array(tokens[: self.length], np.int32), np.array(tokens[1 : self.length + 1], np.int32)
        # Where a word ends is chance, and nobody is asked.
        weights = (following != SEPARATOR).astype(np.float32)
        of_state = np.zeros((len(automaton.symbols), self.vocab_size), np.float32)
        for row, allowed in zip(of_state, automaton.symbols, strict=True):
            row[allowed] = 1 / len(allowed)
        distribution = of_state[states[: self.length]] * weights[:, None]
        return Example(inputs, following * (weights > 0), weights, distribution)
