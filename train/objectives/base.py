"""Provides what all objectives share: the model's outputs, a loss per target, and sums over the targets that count."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recurrax.models import BackboneConfig
from recurrax.parameters import Parameter
from recurrax.types import Params
from train.kinds import KINDS

Batch = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """Sums over the targets of a batch, and what else the model returns."""

    total: jax.Array
    """Sum of the loss."""
    weight: jax.Array
    """Sum of the targets' weights: the number of targets that count."""
    metrics: dict[str, jax.Array]
    """Sums of further quantities, by the names in `Objective.metrics`."""
    state: Any
    """The model's state after the batch."""
    collections: Mapping[str, Any]
    """Flax collections that the model changed."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss of a model's outputs and of a batch's targets, and the metrics that are reported."""

    models: ClassVar[tuple[type[BackboneConfig], ...]]
    """Configs of the models that have such outputs."""
    data: ClassVar[str]
    """The kind of data that has such targets: "text", "classes" or "numbers"."""
    carries_state: ClassVar[bool] = True
    """Whether held-out text is read with one state from a document's start to its end."""
    unit: ClassVar[str]
    """Unit of the loss."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Names of quantities beside the loss, also reported as means over the targets."""
    criteria: ClassVar[tuple[str, ...]] = ("loss",)
    """Those of held-out data by which a checkpoint may be the best."""
    rising: ClassVar[tuple[str, ...]] = ()
    """Those of them that are better if they are larger."""

    def prepare(self, batch: Batch, key: jax.Array | None) -> Batch:
        """Return the batch that the model reads and its targets; `key` is for objectives that change it at random."""
        del key
        return batch

    def per_target(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the loss of each target, its weight, and the other metrics of each target."""
        raise NotImplementedError

    def held_out(self) -> "Objective":
        """Return the objective by which held-out data are evaluated: without what only regularizes training."""
        return self

    def in_unit(self, values: Mapping[str, float]) -> float:
        """Return the loss of mean values in `unit`."""
        return values["loss"]

    def show(self, values: Mapping[str, float]) -> str:
        """Return mean values as text."""
        parts = [f"loss {values['loss']:.4f}"]
        return ", ".join(parts + [f"{name} {values[name]:.4f}" for name in self.metrics if name in values])

    def show_held_out(self, values: Mapping[str, float]) -> str:
        """Return the means over held-out data as text."""
        return self.show(values)

    def frozen_declarations(self, model: BackboneConfig) -> dict[str, Parameter]:
        """Return the declarations of what `loss` reads beside the model, such as a teacher's parameters, by path."""
        del model
        return {}

    def frozen_arrays(self) -> Mapping[str, np.ndarray]:
        """Return the values of what `frozen_declarations` declares."""
        return {}

    def check(self, model: BackboneConfig, data: str) -> None:
        """Raise ValueError unless the model and the data fit the objective."""
        name = type(self).__name__
        if not isinstance(model, self.models):
            choices = " or ".join(cls.__name__ for cls in self.models)
            raise ValueError(f"objective {name} trains a {choices}, got a {type(model).__name__}")
        if data != self.data:
            raise ValueError(f"objective {name} needs {KINDS[self.data]}, got {KINDS[data]}")

    def loss(
        self,
        model: nn.Module,
        params,
        batch: Batch,
        state=None,
        *,
        frozen: Params | None = None,
        key: jax.Array | None = None,
        rngs: Mapping[str, jax.Array] | None = None,
        mutable: Sequence[str] = (),
    ) -> Loss:
        """Return the sums over the weighted targets of a batch.

        A target of weight 0 is left out, even if its loss is not finite. `frozen` has what `frozen_declarations` names;
        `key` is for `prepare`, `rngs` for the model.
        """
        del frozen
        batch = self.prepare(batch, key)
        apply = functools.partial(
            model.apply, {"params": params}, batch["inputs"], state, reset=batch.get("reset"), rngs=rngs
        )
        (outputs, state), collections = apply(mutable=list(mutable)) if mutable else (apply(), {})
        return summed(*self.per_target(outputs, batch), state, collections)


def summed(losses: jax.Array, weights: jax.Array, metrics: Mapping[str, jax.Array], state, collections) -> Loss:
    """Return the sums over targets of the loss and the metrics of each; a target of weight 0 is left out."""

    def total(values):
        return jnp.where(weights == 0, 0, values * weights).sum()

    return Loss(total(losses), weights.sum(), jax.tree.map(total, metrics), state, collections)


def check_fraction(config, *names: str) -> None:
    """Raise ValueError if one of these fields is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"objective.{name} must be in [0, 1), got {getattr(config, name)}")


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float) -> jax.Array:
    """Return -sum_k q_k log p_k, where q mixes the target with the uniform distribution over the classes."""
    logs = jax.nn.log_softmax(logits)
    right = -jnp.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
    return (1 - label_smoothing) * right - label_smoothing * logs.mean(-1)
