"""RWKV-7's channel mix (Peng et al., 2025, arXiv 2503.14456).

    x'_t = x_t + mu * (x_{t-1} - x_t)           token shift
    y_t = W_out relu(W_in x'_t)^2

A projection that also reads the token before, so its state is not empty.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.layers import Layer
from recurrax.mixers import parts
from recurrax.mixers.base import fan_in
from recurrax.mixers.layers.rwkv7 import mix, token_mix
from recurrax.mixers.marks import mark
from recurrax.ops import linear
from recurrax.parameters import reads, writes
from recurrax.projections.base import ACTIVATIONS, ProjectionConfig
from recurrax.types import Params, Reset


@dataclasses.dataclass(frozen=True)
class ChannelMix(ProjectionConfig):
    """RWKV-7's channel mix."""

    activation: str = "relu_squared"
    """Activation: "relu_squared" in RWKV-7, or another of a projection's."""

    def layer(self, dim, dtype=jnp.float32, name=None):
        return ChannelMixLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return jnp.zeros((batch_size, dim), jnp.float32)


def channel_mix(
    params: Params,
    x: Float[Array, "B T D"],
    state: Float[Array, "B D"] | None,
    config: ChannelMix,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B D"]]:
    """Return relu(x' W_in)^2 W_out of shifted tokens x', and the state, the last input in float32."""
    shifted, state = parts.token_shift(x, state, reset=reset)
    hidden = ACTIVATIONS[config.activation](linear(mix(params["mix"], x, shifted), params["in_kernel"]))
    return linear(mark("hidden", hidden), params["out_kernel"]), state


class ChannelMixLayer(Layer):
    """Parameters of `channel_mix`: D (2 E + 1) of them."""

    function = staticmethod(channel_mix)

    def parameters(self, depth):
        d, e = self.dim, self.config.width(self.dim)
        return {
            "mix": token_mix((1 - depth.fraction) ** 4, d),
            "in_kernel": reads(fan_in, d, e, "hidden"),
            "out_kernel": writes(fan_in, e, d, "hidden"),
        }
