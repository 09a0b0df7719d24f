"""What every token mixer is: a frozen config, a pure function, and a Linen shell that declares its parameters.

    y, state = mixer(params, x, state, config, reset=reset)

The function holds the whole formula. The whole sequence, the next chunk and the next token are this one function:
calling it on x[:, :t] and then, with the state it returned, on x[:, t:] equals calling it on x.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.types import Dtype, Reset, State


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """Hyperparameters of one published layer; checked when it is made."""

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
    """Declares a mixer's parameters and calls its function. Computes in x's dtype; parameters are float32."""

    config: MixerConfig
    dim: int
    dtype: Dtype = jnp.float32

    def __call__(
        self, x: Float[Array, "B T D"], state: State | None = None, *, reset: Reset | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        """The mixed sequence and the state after it; state=None is `init_state`."""
        raise NotImplementedError

    def init_state(self, batch_size: int) -> State:
        """The state before the first token."""
        return self.config.init_state(batch_size, self.dim, self.dtype)
