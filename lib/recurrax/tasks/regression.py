"""Numbers that are worked out from a sequence: linear regression in context, and adding."""

import dataclasses

import numpy as np
from jaxtyping import Float

from recurrax.tasks.base import Example, Task, at_steps, generator


@dataclasses.dataclass(frozen=True)
class LinearRegression(Task):
    """Pairs (x, y = w^T x / sqrt(D) + noise) with a w of their own, then x with y = 0: what is y?

    Claim: one layer of linear attention comes to predict what one step of gradient descent from 0 on the pairs predicts
    (von Oswald et al., 2022, arXiv 2212.07677); deeper models come near least squares (Garg et al., 2022, arXiv
    2208.01066).
    Chance: squared error 1 + noise^2, of the answer 0.
    Expected: linear attention as `gradient_step`; more layers, delta rules and attention between it and
    `least_squares`.
    """

    length: int = 21
    """Pairs, and one question."""
    dim: int = 10
    """D of x."""
    noise: float = 0.0
    """Standard deviation of what is added to y."""

    def __post_init__(self):
        super().__post_init__()
        if self.length < 2:
            raise ValueError(f"a pair and a question are 2 steps, more than length {self.length}")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    @property
    def features(self):
        return self.dim + 1

    @property
    def chance(self):
        return 1 + self.noise**2

    def example(self, seed, index):
        rng = generator(seed, index)
        w, x = rng.standard_normal(self.dim), rng.standard_normal((self.length, self.dim))
        y = x @ w / np.sqrt(self.dim) + self.noise * rng.standard_normal(self.length)
        inputs = np.concatenate([x, y[:, None]], axis=1).astype(np.float32)
        inputs[-1, -1] = 0
        return Example(inputs, *at_steps(self.length, -1, y[-1], np.float32))

    def baselines(self, batch):
        learnt = self.batch(0, 0, 1000)
        rate = best_rate(learnt.inputs, learnt.targets[:, -1])
        return {"least squares": least_squares(batch.inputs), "one gradient step": gradient_step(batch.inputs, rate)}


def least_squares(inputs: Float[np.ndarray, "B T F"]) -> Float[np.ndarray, " B"]:
    """Answers by the w of least norm that fits the pairs best."""
    x, y = inputs[:, :-1, :-1].astype(np.float64), inputs[:, :-1, -1].astype(np.float64)
    return np.einsum("bd,bdt,bt->b", inputs[:, -1, :-1], np.linalg.pinv(x), y)


def gradient_step(inputs: Float[np.ndarray, "B T F"], rate: float) -> Float[np.ndarray, " B"]:
    """Answers by w = rate * sum_i y_i x_i: one step of gradient descent on sum_i (w^T x_i - y_i)^2 / 2, from w = 0."""
    x, y = inputs[:, :-1, :-1].astype(np.float64), inputs[:, :-1, -1].astype(np.float64)
    return rate * np.einsum("bd,btd,bt->b", inputs[:, -1, :-1], x, y)


def best_rate(inputs: Float[np.ndarray, "B T F"], answers: Float[np.ndarray, " B"]) -> float:
    """The rate whose `gradient_step` has the least squared error on these sequences."""
    steps = gradient_step(inputs, 1.0)
    return float(steps @ answers / (steps @ steps))


@dataclasses.dataclass(frozen=True)
class Adding(Task):
    """Random numbers in [0, 1), two of them marked, one in each half: what is their sum?

    Claim: gradients reach across long sequences, and what is not marked is let through without a trace (Hochreiter and
    Schmidhuber, 1997; Arjovsky et al., 2015, arXiv 1511.06464).
    Chance: squared error 1/6, of the answer 1.
    Expected: gated recurrences solve it; a recurrence that is the same at every step needs the network before it to
    select; plain RNNs fail at hundreds of steps.
    """

    features = 2
    chance = 1 / 6

    def __post_init__(self):
        super().__post_init__()
        if self.length < 2:
            raise ValueError(f"two numbers are 2 steps, more than length {self.length}")

    def example(self, seed, index):
        rng = generator(seed, index)
        numbers, half = rng.uniform(size=self.length), self.length // 2
        marked = [rng.integers(half), half + rng.integers(self.length - half)]
        inputs = np.stack([numbers, np.isin(np.arange(self.length), marked)], axis=1).astype(np.float32)
        return Example(inputs, *at_steps(self.length, -1, numbers[marked].sum(), np.float32))
