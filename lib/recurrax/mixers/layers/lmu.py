"""LMU, Legendre memory units (Voelker et al., 2019), in the parallel form of Chilkuri and Eliasmith (arXiv 2102.11417).

    u_t = f(W_u x_t + b_u)                     E channels
    m_t = A_bar m_{t-1} + B_bar u_t            N Legendre coefficients of the last theta steps of each, not trained
    y_t = g(W_m m_t + W_x x_t + b)

A_bar and B_bar discretise the delay system exactly, with u held constant over each step. The parallel form drops the
nonlinear recurrence of the first paper: the outputs are not fed back into the memory.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import hippo
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, shift, state_space
from recurrax.parameters import reads, vector, writes
from recurrax.types import Params, Reset

ACTIVATIONS = {"identity": lambda x: x, "relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True)
class LMU(MixerConfig):
    """An LMU layer."""

    capabilities = RECURRENT

    order: int = 16
    """Number of Legendre coefficients per channel, N."""
    theta: float = 128.0
    """Length of the window theta, in tokens."""
    memory_channels: int | None = None
    """Number of memory channels, E; None is dim / order, at least 1, for about dim coefficients in all."""
    memory_activation: str = "identity"
    """Activation f: "identity", "relu", "gelu" or "tanh"."""
    activation: str = "relu"
    """Activation g, with the same choices as f."""

    def __post_init__(self):
        checks.positive(self, "order", "theta", "memory_channels")
        checks.choice("memory_activation", self.memory_activation, ACTIVATIONS)
        checks.choice("activation", self.activation, ACTIVATIONS)

    def channels(self, dim: int) -> int:
        """Return the number of memory channels, E."""
        return self.memory_channels or max(1, dim // self.order)

    def layer(self, dim, dtype=jnp.float32, name=None):
        return LMULayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, self.channels(dim), self.order), jnp.float32)


def lmu(
    params: Params,
    x: Float[Array, "B T D"],
    state: Float[Array, "B E N"] | None,
    config: LMU,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B E N"]]:
    """Apply Legendre memory units; the state is m, float32."""
    batch, length, _ = x.shape
    u = shift(linear(x, params["in_memory"]), params["memory_bias"])
    u = mark("values", ACTIVATIONS[config.memory_activation](u))
    # All channels share one system: folded into the batch they share its powers, which are compile-time constants.
    rows = u.swapaxes(1, 2).reshape(-1, length, 1)
    channels = u.shape[2]
    system = (value[None] for value in (*hippo.hold(*hippo.delay(config.order, config.theta)), np.eye(config.order)))
    m, state = state_space(
        rows,
        *system,
        None if state is None else state.reshape(-1, 1, config.order),
        reset=None if reset is None else jnp.repeat(reset, channels, axis=0),
        chunk_size=max(1, min(64, 4096 // config.order)),
    )
    m = mark("mixed", m.reshape(batch, channels, length, -1).swapaxes(1, 2).reshape(batch, length, -1))
    y = shift(linear(m, params["out_memory"]) + linear(x, params["out_input"]), params["output_bias"])
    return ACTIVATIONS[config.activation](y), state.reshape(batch, channels, config.order)


class LMULayer(Mixer):
    """Parameters of `lmu`: E (D + 1) + D (E N + D + 1) of them."""

    function = staticmethod(lmu)

    def parameters(self, depth):
        d, e, n = self.dim, self.config.channels(self.dim), self.config.order
        return {
            "in_memory": reads(fan_in, d, e),
            "memory_bias": vector(zeros, e),
            "out_memory": writes(fan_in, e * n, d),
            "out_input": writes(fan_in, d, d),
            "output_bias": vector(zeros, d, "embed"),
        }
