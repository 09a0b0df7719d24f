"""Signals in continuous time, sampled: a frequency to tell, and the motion of a driven pendulum to follow."""

import dataclasses
import functools
import math

import numpy as np

from recurrax import checks
from recurrax.tasks.base import Example, Task, at_steps, generator


@dataclasses.dataclass(frozen=True)
class Oscillation(Task):
    """A noisy sine of random phase and size, sampled every `spacing` units of time: which frequency, asked at the end?

    Claim: a state space is a system in continuous time. Trained on one sampling rate it reads another, without new
    training, once its step size is scaled with the spacing (Gu et al., 2021, arXiv 2110.13985, section 5.2).
    Chance: 1 / num_frequencies.
    Expected: at half the rate a state space with twice the step keeps its accuracy; one with the old step, to which
    every frequency seems doubled, loses it, as do layers without a step size.
    """

    length: int = 64
    num_frequencies: int = 8
    """Different ones: 2, 4, 6 ... periods in 64 units of time."""
    spacing: float = 1.0
    """Time between samples."""
    noise: float = 0.3
    """Standard deviation of what is added to each sample."""

    features = 1

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "spacing")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        fastest = 2 * self.num_frequencies / 64
        if 2 * fastest * self.spacing > 1:
            raise ValueError(
                f"samples {self.spacing} apart hold frequencies up to {0.5 / self.spacing:.3g}, fewer than the "
                f"{fastest:.3g} of {self.num_frequencies} frequencies"
            )

    @property
    def num_classes(self):
        return self.num_frequencies

    @property
    def chance(self):
        return 1 / self.num_frequencies

    def example(self, seed, index):
        rng = generator(seed, index)
        number, phase, size = rng.integers(self.num_frequencies), rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.5)
        time = self.spacing * np.arange(self.length)
        signal = size * np.sin(2 * math.pi * 2 * (number + 1) / 64 * time + phase)
        inputs = (signal + self.noise * rng.standard_normal(self.length)).astype(np.float32)[:, None]
        return Example(inputs, *at_steps(self.length, -1, number))


@dataclasses.dataclass(frozen=True)
class Pendulum(Task):
    """A pendulum at rest is pushed by u, a force that changes at random at every step: how far to the side is it now?

    It is the controlled differential equation a'' = -sin a - a' / 5 + u for the angle a, in steps of half a unit of
    time, solved with four Runge-Kutta steps in each; the answer is sin a. Pushes are normal, with standard deviation
    `force`.
    Claim: linear recurrences followed by nonlinear projections come near any regular map of sequences; without the
    nonlinear projection they are linear maps of the past, and this is none (Orvieto et al., 2023, arXiv 2307.11888).
    Chance: squared error of the answer 0, measured on 500 sequences.
    Expected: LRU with a linear read-out stays where the best linear map is; with an MLP the error falls with its width.
    """

    length: int = 32
    force: float = 1.0

    features = 1

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "force")

    @property
    def chance(self):
        return _mean_square(self)

    def example(self, seed, index):
        pushes = self.force * generator(seed, index).standard_normal(self.length)
        answers = np.sin(_angles(pushes.tolist(), 0.125)).astype(np.float32)
        return Example(pushes.astype(np.float32)[:, None], answers, np.ones(self.length, np.float32))


def _angles(pushes, h):
    """By the classical Runge-Kutta step of order four, four of size h for each push."""
    a = v = 0.0
    angles = []
    for push in pushes:
        for _ in range(4):
            v1, s1 = v, push - math.sin(a) - v / 5
            v2 = v + h / 2 * s1
            s2 = push - math.sin(a + h / 2 * v1) - v2 / 5
            v3 = v + h / 2 * s2
            s3 = push - math.sin(a + h / 2 * v2) - v3 / 5
            v4 = v + h * s3
            s4 = push - math.sin(a + h * v3) - v4 / 5
            a, v = a + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), v + h / 6 * (s1 + 2 * s2 + 2 * s3 + s4)
        angles.append(a)
    return angles


@functools.cache
def _mean_square(task):
    return float(np.mean(np.square(task.batch(2**32, 0, 500).targets)))
