"""Defines what adapters have in common: few parameters beside those of a model, and a model that computes with both."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from recurrax.models import BackboneConfig, states
from recurrax.parameters import Parameter, nested
from recurrax.types import Params, State

ADAPTER = "adapter"
"""Name, among a model's parameters, of the branch that holds the adapter's."""


class Materialised(NamedTuple):
    """What a model is called with instead of its own parameters and an empty state."""

    params: Params
    start: State | None
    """The state before a document's first token, of one row; None: the model's own."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Declares an adapter's parameters and says what they make of a model.

    Its parameters are a nested dict, the branch `ADAPTER` of a model's.
    """

    def declare(self, config: BackboneConfig, declared: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Return the adapter's parameters by path, for a model with these parameters, with their initializers.

        Raises:
          ValueError: the model has nothing of the kind that this changes.
        """
        raise NotImplementedError

    def materialise(self, config: BackboneConfig, params: Params, own: Params) -> Materialised:
        """Return the model's parameters and start state, from its parameters and the adapter's."""
        raise NotImplementedError

    @property
    def starts(self) -> bool:
        """Whether documents start from another state, so that each must begin at the first step of a call."""
        return False

    def init(self, key: jax.Array, config: BackboneConfig, declared: Mapping[str, Parameter]) -> Params:
        """Return the parameters before training, with which the model computes what it does without them."""
        table = self.declare(config, declared)
        keys = dict(zip(table, jax.random.split(key, len(table)), strict=True))
        return nested({path: p.init(keys[path], p.shape, "float32") for path, p in table.items()})


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A model with an adapter: `apply` takes the model's parameters with the adapter's in the branch `ADAPTER`."""

    model: nn.Module
    adapter: Adapter

    @property
    def config(self) -> BackboneConfig:
        return self.model.config

    def init_state(self, batch_size: int) -> State:
        """Return the model's own state before the first token; `apply` replaces it where a document starts."""
        return self.model.init_state(batch_size)

    def apply(self, variables: Mapping[str, Any], inputs, state: State | None = None, *, reset=None, **options):
        """Return what the model's `apply` does. A reset at the first step, or no state, means the adapter's start.

        A reset at a later step clears the state, as in the model alone: with an adapter that `starts`, documents must
        begin at the first step.
        """
        params, start = materialise(self.adapter, self.model.config, variables["params"])
        if start is not None:
            start = states.repeat_rows(start, inputs.shape[0])
            if state is None:
                state = start
            elif reset is not None:
                state = states.where_rows(reset[:, 0], start, state)
            reset = None if reset is None else reset.at[:, 0].set(False)
        return self.model.apply({**variables, "params": params}, inputs, state, reset=reset, **options)


def adapted(model: nn.Module, adapter: Adapter | None) -> nn.Module | Adapted:
    """Return the model with the adapter, or, without one, the model."""
    return model if adapter is None else Adapted(model, adapter)


def materialise(adapter: Adapter | None, config: BackboneConfig, params: Params) -> Materialised:
    """Return the model's parameters and start state, from parameters with the adapter's in the branch `ADAPTER`."""
    if adapter is None:
        return Materialised(params, None)
    own = {name: branch for name, branch in params.items() if name != ADAPTER}
    return adapter.materialise(config, own, params[ADAPTER])


def merge(adapter: Adapter | None, config: BackboneConfig, params: Params) -> Params:
    """Return parameters with which the model alone computes what it does with the adapter.

    Raises:
      ValueError: the adapter changes more than parameters.
    """
    if adapter is not None and adapter.starts:
        raise ValueError(f"{adapter} cannot be merged into parameters: it is the state from which documents start")
    return materialise(adapter, config, params).params
