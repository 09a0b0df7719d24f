"""RWKV-7's channel mix (Peng et al., 2025, arXiv 2503.14456).

    x'_t = x_t + mu * (x_{t-1} - x_t)           token shift
    y_t = W_out relu(W_in x'_t)^2

A projection that sees the token before: it has a state, and is configured, called and declared as a mixer is.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import POSITION_WISE
from recurrax.mixers import parts
from recurrax.mixers.base import Mixer, MixerConfig, fan_in
from recurrax.mixers.layers.rwkv7 import mix, mix_start
from recurrax.ops import linear
from recurrax.projections.base import relu_squared
from recurrax.types import Params, Reset


@dataclasses.dataclass(frozen=True)
class ChannelMix(MixerConfig):
    """RWKV-7's channel mix."""

    capabilities = POSITION_WISE

    expansion: float = 4.0
    """Width of the hidden layer over the model's dimension, to the nearest multiple of 8."""
    hidden: int | None = None
    """That width itself; None is by expansion."""

    def __post_init__(self):
        checks.positive(self, "expansion", "hidden")

    def width(self, dim: int) -> int:
        """E."""
        return self.hidden or max(8, 8 * round(self.expansion * dim / 8))

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
    """relu(x' W_in)^2 W_out of shifted tokens x'; the state is the last input, float32."""
    del config
    shifted, state = parts.token_shift(x, state, reset=reset)
    hidden = relu_squared(linear(mix(params["mix"], x, shifted), params["in_kernel"]))
    return linear(hidden, params["out_kernel"]), state


class ChannelMixLayer(Mixer):
    """Parameters of `channel_mix`: D (2 E + 1) of them."""

    function = staticmethod(channel_mix)

    def parameters(self, depth):
        d, e = self.dim, self.config.width(self.dim)
        return {
            "mix": (mix_start, (d,), (1 - depth.fraction) ** 4),
            "in_kernel": (fan_in, (d, e)),
            "out_kernel": (fan_in, (e, d)),
        }
