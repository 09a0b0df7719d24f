"""Provides regression: squared, absolute or Huber's error of each sequence or of each step.

    squared  |y - t|^2        absolute  |y - t|        huber  |y - t|^2 / 2 up to 1, |y - t| - 1/2 beyond

A regressor that pools over time has one target per sequence, that of its last step; one with pooling "none" has a
target at every step that has a weight. Errors of several numbers are averaged.
"""

import dataclasses

import jax.numpy as jnp
import optax

from recurrax import checks
from recurrax.models import RegressorConfig
from train.objectives.base import Objective
from train.objectives.classification import targets_of

ERRORS = {
    "squared": lambda outputs, targets: jnp.square(outputs - targets),
    "absolute": lambda outputs, targets: jnp.abs(outputs - targets),
    "huber": optax.losses.huber_loss,
}


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    """Predict numbers; the mean squared error is reported beside the loss."""

    error: str = "squared"
    """Kind of error: "squared", "absolute" or "huber"."""

    models = (RegressorConfig,)
    data = "numbers"
    unit = "error"
    metrics = ("squared_error",)

    def __post_init__(self):
        checks.choice("objective.error", self.error, ERRORS)

    def per_target(self, outputs, batch):
        # Outputs (B, numbers) or (B, T, numbers); targets of one number have no such axis.
        targets, weights = targets_of(outputs.ndim == 2, batch)
        targets = targets[..., None] if targets.ndim < outputs.ndim else targets
        squared = ERRORS["squared"](outputs, targets).mean(-1)
        losses = squared if self.error == "squared" else ERRORS[self.error](outputs, targets).mean(-1)
        return losses, weights, {"squared_error": squared} if self.error != "squared" else {}
