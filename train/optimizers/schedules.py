"""Provides schedules: the learning rate of each step as a fraction of the optimizer's `learning_rate`, its peak.

A schedule counts optimizer steps from 0. Its lengths are independent of `--steps`, so that a run can be trained in
several calls with the same learning rates.
"""

import dataclasses
import math

import jax.numpy as jnp
import optax

from recurrax import checks

LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of each step."""

    def rates(self, peak: float) -> optax.Schedule:
        """Return step -> learning rate, whose maximum is `peak`."""
        raise NotImplementedError

    @property
    def last_step(self) -> int | None:
        """The step from which the learning rate is constant; None if it is constant from the start."""
        return None

    def _check_steps(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not 0 <= value <= LARGEST:
                raise ValueError(f"{name} must be in [0, 2**31), got {value}")

    def _check_fractions(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """A linear warm-up, then the peak."""

    warmup_steps: int = 100
    """Number of steps of linear warm-up."""

    def __post_init__(self):
        self._check_steps("warmup_steps")

    def rates(self, peak: float) -> optax.Schedule:
        return optax.warmup_constant_schedule(0.0 if self.warmup_steps else peak, peak, self.warmup_steps)


@dataclasses.dataclass(frozen=True)
class Decaying(Schedule):
    """A linear warm-up, then a decay from the peak to a fraction of it."""

    warmup_steps: int = 100
    """Number of steps of linear warm-up."""
    decay_steps: int = 1000
    """Step at which the decay ends."""
    final_fraction: float = 0.1
    """Learning rate at the end of the decay and after it, as a fraction of the peak."""

    def __post_init__(self):
        checks.positive(self, "decay_steps")
        self._check_steps("decay_steps")
        if not 0 <= self.warmup_steps < self.decay_steps:
            raise ValueError(f"warmup_steps must be in [0, decay_steps), got {self.warmup_steps} of {self.decay_steps}")
        self._check_fractions("final_fraction")

    @property
    def last_step(self) -> int:
        return self.decay_steps


@dataclasses.dataclass(frozen=True)
class Cosine(Decaying):
    """A linear warm-up, then half a period of a cosine from the peak to `final_fraction` of it."""

    def rates(self, peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if self.warmup_steps else peak,
            peak_value=peak,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            end_value=self.final_fraction * peak,
        )


@dataclasses.dataclass(frozen=True)
class Linear(Decaying):
    """A linear warm-up, then a linear decay from the peak to `final_fraction` of it."""

    def rates(self, peak: float) -> optax.Schedule:
        decay = optax.linear_schedule(peak, self.final_fraction * peak, self.decay_steps - self.warmup_steps)
        return _after_warmup(self.warmup_steps, peak, decay)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Decaying):
    """A linear warm-up, the peak, and at the end a decay by 1 - sqrt (arXiv 2405.18392)."""

    stable_steps: int = 800
    """Step until which the learning rate is the peak. A longer run may start from a checkpoint of this step."""

    def __post_init__(self):
        super().__post_init__()
        if not self.warmup_steps <= self.stable_steps < self.decay_steps:
            raise ValueError(
                f"stable_steps must be in [warmup_steps, decay_steps), got {self.stable_steps} of "
                f"{self.warmup_steps} and {self.decay_steps}"
            )

    def rates(self, peak: float) -> optax.Schedule:
        length = self.decay_steps - self.stable_steps

        def stable_then_decay(step):
            past = jnp.clip((step + self.warmup_steps - self.stable_steps) / length, 0, 1)
            return peak * (1 - (1 - self.final_fraction) * jnp.sqrt(past))

        return _after_warmup(self.warmup_steps, peak, stable_then_decay)


@dataclasses.dataclass(frozen=True)
class OneCycle(Decaying):
    """Half a period of a cosine up to the peak, then one down to `final_fraction` of it (arXiv 1708.07120)."""

    warmup_steps: int = 300
    """Number of steps of the rise."""
    first_fraction: float = 0.04
    """Learning rate of the first step, as a fraction of the peak."""

    def __post_init__(self):
        super().__post_init__()
        self._check_fractions("first_fraction")

    def rates(self, peak: float) -> optax.Schedule:
        def rate(step):
            up = step / max(self.warmup_steps, 1)
            down = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
            rising = _half_cosine(self.first_fraction, 1.0, up)
            return peak * jnp.where(step < self.warmup_steps, rising, _half_cosine(1.0, self.final_fraction, down))

        return rate


@dataclasses.dataclass(frozen=True)
class RangeTest(Schedule):
    """A rise by a constant factor per step, to find the largest learning rate at which the loss still falls.

    The learning rate of `metrics.jsonl` at which the loss is lowest is several times the best one (arXiv 1506.01186).
    """

    rise_steps: int = 200
    """Step at which the peak is reached."""
    first_fraction: float = 1e-5
    """Learning rate of the first step, as a fraction of the peak."""

    def __post_init__(self):
        checks.positive(self, "rise_steps", "first_fraction")
        self._check_steps("rise_steps")
        self._check_fractions("first_fraction")

    @property
    def last_step(self) -> int:
        return self.rise_steps

    def rates(self, peak: float) -> optax.Schedule:
        span = math.log(self.first_fraction)
        return lambda step: peak * jnp.exp(span * (1 - jnp.clip(step / self.rise_steps, 0, 1)))


def _after_warmup(steps: int, peak: float, schedule: optax.Schedule) -> optax.Schedule:
    """Return a linear rise to `peak`, then `schedule`, which counts from the end of the rise."""
    if steps == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, steps), schedule], [steps])


def _half_cosine(first: float, last: float, part):
    """Return the value between `first` and `last` after this part of half a period."""
    return last + (first - last) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(part, 0, 1)))
