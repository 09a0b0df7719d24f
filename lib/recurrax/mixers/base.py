"""What every token mixer is: a frozen config, a pure function, and a Linen shell that declares its parameters.

    y, state = mixer(params, x, state, config, reset=reset)

The function holds the whole formula. The whole sequence, the next chunk and the next token are this one function:
calling it on x[:, :t] and then, with the state it returned, on x[:, t:] equals calling it on x.
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
"""Variance 1 / D for a matrix (D, E): what projections of the residual stream start from."""
small = nn.initializers.variance_scaling(1 / 32, "fan_avg", "uniform")
"""Xavier's with a gain of 2^-2.5, from which the authors of GLA start queries, keys and values. A norm follows: its
epsilon then damps what the first tokens read, whose gradients would have heavy tails."""
after_norm = nn.initializers.variance_scaling(1 / 8, "fan_in", "truncated_normal")
"""Variance 1 / 8 D: for a matrix that reads normed heads. It makes a layer as loud as softmax attention, whose averages
are smaller than what they average."""
zeros = nn.initializers.zeros
ones = nn.initializers.ones


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """Hyperparameters of one published layer; checked when it is made."""

    @property
    def hands_on(self) -> bool:
        """Whether layers above may read something that this one computes, within one call."""
        return False

    @property
    def reads_shared(self) -> bool:
        """Whether this layer reads what a layer below hands on."""
        return False

    def layer(self, dim: int, dtype: Dtype = jnp.float32, name: str | None = None) -> "Mixer":
        """The Linen shell for inputs (B, T, dim); `dtype` is that of its caches.

        Raises:
          ValueError: the layer cannot have this dim.
        """
        raise NotImplementedError

    def init_state(self, batch_size: int, dim: int, dtype: Dtype = jnp.float32) -> State:
        """The state before the first token: same structure, shapes and dtypes as every state that is returned."""
        raise NotImplementedError


class Mixer(nn.Module):
    """Declares a mixer's parameters and calls its function. Computes in x's dtype; parameters are float32.

    A layer of its own says which function, and what `parameters` there are.
    """

    config: MixerConfig
    dim: int
    dtype: Dtype = jnp.float32

    function: ClassVar[Callable]
    """mixer(params, x, state, config, *, reset) -> (y, state)."""
    rates: ClassVar[tuple[str, ...]]
    """Names of the parameters, as far as the config has them, that decay factors, step sizes and phases are computed
    from: they stay in float32 where the others are cast to a narrower dtype. Every layer declares them, if only ()."""

    def parameters(self, depth: Scalar) -> dict[str, tuple]:
        """Name -> (initializer, shape, arguments of the initializer but for its key and its dtype)."""
        raise NotImplementedError

    def declare(self, depth: Scalar) -> Params:
        """The parameters themselves."""
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
        """The mixed sequence and the state after it; state=None is `init_state`.

        `depth` is the part of the model's layers that comes before this one, in [0, 1): some papers start their gates
        from it. Only initializers see it. `shared` is what a layer below handed on; few layers read it.

        Raises:
          ValueError: the state is not of this layer or not for this many sequences.
        """
        if state is not None:
            want = jax.eval_shape(lambda: self.init_state(x.shape[0]))
            checks.same_structure(type(self.config).__name__, state, want)
        # Nothing happens, unless the caller asks for the collection: `recurrax.probes` looks at layers one by one.
        self.sow("intermediates", "given", (x, shared))
        return self.mix(self.declare(depth), x, state, reset, shared)

    def mix(self, params, x, state, reset, shared):
        """The function's call; `shared` goes to those that read it."""
        del shared
        return self.function(params, x, state, self.config, reset=reset)

    def shared(self, x: Float[Array, "B T D"], state: State | None, reset: Reset | None, below: Array | None):
        """What the layers above read, after the call on the same x and state: what those below handed on."""
        return below

    def init_state(self, batch_size: int) -> State:
        """The state before the first token."""
        return self.config.init_state(batch_size, self.dim, self.dtype)
