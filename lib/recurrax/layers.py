"""Define what mixers, and layers that are called like them, have in common: a frozen config and a Linen module.

    y, state = layer(x, state, reset=reset)

A config declares what the layer can do, its `Capabilities`. The module declares parameters and calls a pure function.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks, sites
from recurrax.ops import sharding
from recurrax.parameters import Parameter, declare
from recurrax.types import Dtype, Params, Reset, Scalar, State


class Capabilities(NamedTuple):
    """What a layer can do; its config declares this."""

    causal: bool
    """Whether no output depends on a later input."""
    streams: bool
    """Whether a sequence may be split between two calls, the state passed on."""
    linear_in_values: bool
    """Whether the outputs are linear in the values, given all coefficients, so that implicit attention exists."""
    splits_time: bool
    """Whether a mesh may split the sequence."""


RECURRENT = Capabilities(causal=True, streams=True, linear_in_values=True, splits_time=True)
"""The capabilities of recurrences and of causal attention."""
POSITION_WISE = Capabilities(causal=True, streams=True, linear_in_values=False, splits_time=True)
"""The capabilities of a network that is applied to each position, or to a few before it."""


LOSSES = "losses"
"""The Flax collection of extra losses of layers, scalars that training adds to its own. Like `UPDATES` it is filled
where the caller makes it mutable."""
UPDATES = "updates"
"""The Flax collection of what training adds to parameters of the same path after a step, without the optimizer."""


class Depth(NamedTuple):
    """Where a layer stands in its model: some papers initialise gates and decay factors by it."""

    index: Scalar = 0
    """Number of blocks below."""
    count: int = 1
    """Number of blocks of the model, L."""

    @property
    def fraction(self) -> Scalar:
        """index / L, in [0, 1)."""
        return self.index / self.count


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """Hyperparameters of one layer, checked at construction."""

    capabilities: ClassVar[Capabilities]

    num_heads = 1
    """Number of heads; a field of the layers that have heads."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "layer" in vars(cls) and not hasattr(cls, "capabilities"):
            names = ", ".join(Capabilities._fields)
            raise ValueError(f"{cls.__name__} must declare its capabilities, {names}: recurrax.layers.Capabilities")

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input."""
        return self.capabilities.causal

    @property
    def streams(self) -> bool:
        """Whether a sequence may be split between two calls."""
        return self.capabilities.streams

    @property
    def linear_in_values(self) -> bool:
        """Whether the outputs are linear in the values, given all coefficients."""
        return self.capabilities.linear_in_values

    @property
    def splits_time(self) -> bool:
        """Whether a mesh may split the sequence."""
        return self.capabilities.splits_time

    @property
    def value_heads(self) -> int:
        """Number of heads whose values and outputs stand side by side, H."""
        return self.num_heads

    @property
    def context(self) -> int | None:
        """The most tokens that one stream may have without losing some that the layer would use; None is no limit."""
        return None

    def with_context(self, context: int) -> "LayerConfig":
        """Return this config with another limit, if it has one."""
        del context
        return self

    @property
    def provides_value_residual(self) -> bool:
        """Whether this layer provides the value residual, for layers above it within the same call."""
        return False

    @property
    def uses_value_residual(self) -> bool:
        """Whether this layer uses the value residual of a layer below."""
        return False

    def layer(self, dim: int, dtype: Dtype = jnp.float32, name: str | None = None) -> "Layer":
        """Return the Linen module for inputs (B, T, dim); `dtype` is the dtype of its caches.

        Raises:
          ValueError: the config does not allow this dim.
        """
        raise NotImplementedError

    def init_state(self, batch_size: int, dim: int, dtype: Dtype = jnp.float32) -> State:
        """Return the state before the first token; every later state has its structure, shapes and dtypes."""
        raise NotImplementedError


def check_splits_time(config: LayerConfig) -> None:
    """Raise ValueError if a mesh must not split this layer's sequences."""
    if not config.splits_time:
        raise ValueError(f"a mesh cannot split the sequences of {config}, whose config declares splits_time=False")


class Layer(nn.Module):
    """Declare a layer's parameters and call its function. It computes in x's dtype; parameters are float32.

    Each subclass sets `function` and defines `parameters`.
    """

    config: LayerConfig
    dim: int
    dtype: Dtype = jnp.float32

    function: ClassVar[Callable]
    """The pure function, layer(params, x, state, config, *, reset) -> (y, state)."""

    def parameters(self, depth: Depth) -> dict[str, Parameter]:
        """Return the table of parameters by name."""
        raise NotImplementedError

    def declare(self, depth: Depth) -> Params:
        """Create or look up the parameters."""
        return declare(self, self.parameters(depth))

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: State | None = None,
        *,
        reset: Reset | None = None,
        depth: Depth = Depth(),  # noqa: B008
        shared: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Return the outputs and the state after them; state=None is `init_state`.

        `depth` is where the layer stands in its model. `shared` is the value residual of a layer below; few layers use
        it.

        Raises:
          ValueError: the state does not fit this layer or the batch size; a mesh splits the sequence, which this
            layer does not allow.
        """
        if x.shape[1] > 1 and sharding.splits_time():
            check_splits_time(self.config)
        if state is not None:
            want = jax.eval_shape(lambda: self.init_state(x.shape[0]))
            checks.same_structure(type(self.config).__name__, state, want)
        with sites.layer(self, depth.index):
            return self.run(self.declare(depth), x, state, reset=reset, depth=depth, shared=shared)

    def run(self, params, x, state, *, reset, depth, shared):
        """Call the function; layers that use `depth` or `shared` override this."""
        del depth, shared
        return self.function(params, x, state, self.config, reset=reset)

    def shared(self, x: Float[Array, "B T D"], state: State | None, reset: Reset | None, below: Array | None):
        """Return the value residual for the layers above, after the call on the same x and state; default: `below`."""
        return below

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        return self.config.init_state(batch_size, self.dim, self.dtype)
