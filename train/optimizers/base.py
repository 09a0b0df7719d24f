"""Provides what all optimizers share: learning rates, weight decay, groups, clipping and accumulation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import optax

from recurrax import checks
from recurrax.parameters import Parameter
from recurrax.patterns import by_path
from train.optimizers.groups import Setting, parse_group, settings_of, table
from train.optimizers.schedules import LARGEST, Cosine, Schedule


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update -rate_t * factor * (direction + decay * parameter), with gradients clipped by their global norm.

    The direction is the optimizer's own. The factor and the decay of a parameter are those of its declaration and of
    `groups`.
    """

    learning_rate: float = 3e-3
    """Maximal learning rate."""
    schedule: Schedule = Cosine()
    """Learning rate of each step as a fraction of the maximum."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; vectors, embeddings and recurrence parameters are not decayed."""
    groups: tuple[str, ...] = ()
    """Groups "PATTERN=FACTOR" or "PATTERN=FACTOR,DECAY" by role or path: "recurrence=0.1" learns at a tenth."""
    clip_norm: float = 1.0
    """Global norm to which larger gradients are scaled down; inf: no clipping."""
    accumulate: int = 1
    """Number of slices of a batch that are processed one after the other, to save memory."""

    normalizes: ClassVar[bool] = False
    """Whether each entry of a step has a size of its own, whatever the size of the gradient and of the matrix."""

    def __post_init__(self):
        checks.hashable(self)
        for name in ("learning_rate", "clip_norm", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name} must be positive, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optimizer.{name} must be in [0, inf), got {getattr(self, name)}")
        if self.accumulate > LARGEST:
            raise ValueError(f"optimizer.accumulate must be less than 2**31, got {self.accumulate}")
        for group in self.groups:
            parse_group(group)

    def direction(self, declared: Mapping[str, Parameter]) -> optax.GradientTransformation:
        """Return the transformation of clipped gradients to directions, which are subtracted from parameters."""
        raise NotImplementedError

    def rates(self) -> optax.Schedule:
        """Return step -> learning rate."""
        return self.schedule.rates(self.learning_rate)

    def gradient_point(self, params, opt_state):
        """Return the parameters at which the gradient is taken: `params`, unless the optimizer averages."""
        del opt_state
        return params

    def settings(self, declared: Mapping[str, Parameter] | None) -> dict[str, Setting]:
        """Return the setting of every parameter by its path. Raises ValueError as `build`."""
        if declared is None and (self.weight_decay or self.groups):
            raise ValueError(
                f"weight_decay {self.weight_decay} and groups {self.groups} must be 0 and () for parameters that no "
                "table declares"
            )
        return settings_of(self.groups, self.weight_decay, declared or {})

    def describe(self, declared: Mapping[str, Parameter], norms: Mapping[str, float] | None = None) -> str:
        """Return a table of the parameters that have one learning rate and decay, with their norm if it is given."""
        return table(self.groups, self.weight_decay, declared, norms)

    def build(self, declared: Mapping[str, Parameter] | None) -> optax.GradientTransformation:
        """Return the whole update.

        Args:
          declared: `recurrax.models.parameters` of the model; its paths are those of the tree of parameters. None: of
            parameters that no table declares, which are trained without weight decay.

        Raises:
          ValueError: a group matches no parameter, or weight decay of undeclared parameters.
        """
        settings = self.settings(declared)
        # The number of links is a part of checkpoints.
        links = self.direction(declared or {}), _decay(settings), _descend(self.rates(), settings)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.chain(*links))

    def _check_averages(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:  # with 1 the average stays at 0, and its bias correction is 0 / 0
                raise ValueError(f"optimizer.{name} must be in [0, 1), got {getattr(self, name)}")


def _decay(settings: Mapping[str, Setting]) -> optax.GradientTransformation:
    """Add decay * parameter to the directions of parameters that are decayed."""
    decays = {path: setting.weight_decay for path, setting in settings.items()}

    def update(updates, params):
        return jax.tree.map(lambda u, p, decay: u + decay * p, updates, params, by_path(params, decays))

    if not settings:
        return optax.identity()
    # The wrapper is a part of checkpoints, too.
    return optax.masked(
        optax.stateless(update), lambda params: jax.tree.map(lambda decay: decay > 0, by_path(params, decays))
    )


def _descend(rates: optax.Schedule, settings: Mapping[str, Setting]) -> optax.GradientTransformation:
    """Multiply by -rate_t and by the parameter's factor."""
    descend = optax.scale_by_learning_rate(rates)

    def update(updates, state, params=None):
        updates, state = descend.update(updates, state, params)
        if settings:
            factors = by_path(updates, {path: setting.learning_rate for path, setting in settings.items()})
            updates = jax.tree.map(lambda u, factor: u if factor == 1 else factor * u, updates, factors)
        return updates, state

    return optax.GradientTransformation(descend.init, update)
