"""Provides classification: -log p(class), in nats, of each sequence or of each step.

A classifier that pools over time has one target per sequence, that of its last step; one with pooling "none" has a
target at every step that has a weight.
"""

import dataclasses

import jax.numpy as jnp
import optax

from recurrax.models import ClassifierConfig
from train.objectives.base import Objective, check_fraction, cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Predict a class. Accuracy is reported beside the loss; held-out data have no label smoothing."""

    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets."""

    models = (ClassifierConfig,)
    data = "classes"
    unit = "nats"
    metrics = rising = ("accuracy",)
    criteria = ("loss", "accuracy")

    def __post_init__(self):
        check_fraction(self, "label_smoothing")

    def per_target(self, outputs, batch):
        targets, weights = targets_of(outputs.ndim == 2, batch)
        if self.label_smoothing:
            losses = cross_entropy(outputs, targets, self.label_smoothing)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return losses, weights, {"accuracy": (outputs.argmax(-1) == targets).astype(jnp.float32)}

    def held_out(self) -> "Classification":
        return Classification()


def targets_of(pooled: bool, batch):
    """Return targets and weights: of the last step if the model pools over time, else of all steps."""
    targets, weights = batch["targets"], batch["weights"]
    return (targets[:, -1], weights[:, -1]) if pooled else (targets, weights)
