"""Define the base classes of token mixers, each of a frozen config, a pure function and a Linen module of parameters.

    y, state = mixer(params, x, state, config, reset=reset)

The function contains the whole formula. It serves the whole sequence, the next chunk and the next token alike: calling
it on x[:, :t] and then, with the state it returned, on x[:, t:] equals calling it on x.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.types import Dtype, Params, Reset, Scalar, State

fan_in = nn.initializers.lecun_normal()
"""Variance 1 / D for a matrix (D, E): the initializer of projections of the residual stream."""
small = nn.initializers.variance_scaling(1 / 32, "fan_avg", "uniform")
"""Xavier initialisation with a gain of 2^-2.5, which the authors of GLA use for queries, keys and values. A norm
follows: its epsilon then damps the outputs of the first tokens, whose gradients would have heavy tails."""
after_norm = nn.initializers.variance_scaling(1 / 8, "fan_in", "truncated_normal")
"""Variance 1 / 8 D: for a matrix applied to normalised heads. It gives a layer outputs as large as those of softmax
attention, whose averages are smaller than the averaged values."""
zeros = nn.initializers.zeros
ones = nn.initializers.ones


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """Hyperparameters of one published layer, checked at construction."""

    @property
    def hands_on(self) -> bool:
        """Whether this layer provides the value residual, for layers above it within the same call."""
        return False

    @property
    def reads_shared(self) -> bool:
        """Whether this layer uses the value residual of a layer below."""
        return False

    def layer(self, dim: int, dtype: Dtype = jnp.float32, name: str | None = None) -> "Mixer":
        """Return the Linen module for inputs (B, T, dim); `dtype` is the dtype of its caches.

        Raises:
          ValueError: the config does not allow this dim.
        """
        raise NotImplementedError

    def init_state(self, batch_size: int, dim: int, dtype: Dtype = jnp.float32) -> State:
        """Return the state before the first token; every later state has its structure, shapes and dtypes."""
        raise NotImplementedError


class Mixer(nn.Module):
    """Declare a mixer's parameters and call its function. It computes in x's dtype; parameters are float32.

    Each subclass sets `function` and `rates` and defines `parameters`.
    """

    config: MixerConfig
    dim: int
    dtype: Dtype = jnp.float32

    function: ClassVar[Callable]
    """The pure function, mixer(params, x, state, config, *, reset) -> (y, state)."""
    rates: ClassVar[tuple[str, ...]]
    """Names of the parameters from which decay factors, step sizes and phases are computed. They stay in float32 when
    the others are cast to a narrower dtype; a name that the config does not use is ignored. Every layer sets this."""

    def parameters(self, depth: Scalar) -> dict[str, tuple]:
        """Return name -> (initializer, shape, further arguments of the initializer without its key and dtype)."""
        raise NotImplementedError

    def declare(self, depth: Scalar) -> Params:
        """Create or look up the parameters."""
        # With `jax_enable_x64` the default of JAX's initializers is float64, with other random numbers.
        return {name: self.param(name, *what, dtype=jnp.float32) for name, what in self.parameters(depth).items()}

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: State | None = None,
        *,
        reset: Reset | None = None,
        depth: Scalar = 0.0,
        shared: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Return the mixed sequence and the state after it; state=None is `init_state`.

        `depth` is the fraction of the model's layers that precede this one, in [0, 1): some papers initialise gates by
        it. Only initializers use it. `shared` is the value residual of a layer below; few layers use it.

        Raises:
          ValueError: the state does not fit this layer or the batch size.
        """
        if state is not None:
            want = jax.eval_shape(lambda: self.init_state(x.shape[0]))
            checks.same_structure(type(self.config).__name__, state, want)
        # Does nothing unless the caller makes the collection mutable: `recurrax.probes` examines single layers with it.
        self.sow("intermediates", "given", (x, shared))
        return self.mix(self.declare(depth), x, state, reset, shared)

    def mix(self, params, x, state, reset, shared):
        """Call the function; layers that use `shared` override this."""
        del shared
        return self.function(params, x, state, self.config, reset=reset)

    def shared(self, x: Float[Array, "B T D"], state: State | None, reset: Reset | None, below: Array | None):
        """Return the value residual for the layers above, after the call on the same x and state; default: `below`."""
        return below

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        return self.config.init_state(batch_size, self.dim, self.dtype)
