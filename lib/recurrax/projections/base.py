"""Define the base classes of projections, position-wise nonlinear networks of config, pure function and Linen module.

    y = projection(params, x, config)

A projection is a layer like a mixer, `y, state = layer(x, state)`, but its state is empty.
"""

import dataclasses

import jax
import jax.numpy as jnp

from recurrax import checks
from recurrax.layers import POSITION_WISE, Layer, LayerConfig


def relu_squared(x):
    """Return max(x, 0)^2 (So et al., 2021, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "relu_squared": relu_squared,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jax.nn.tanh,
    "identity": jax.nn.identity,
}


@dataclasses.dataclass(frozen=True)
class ProjectionConfig(LayerConfig):
    """Hyperparameters of a projection."""

    capabilities = POSITION_WISE

    expansion: float = 4.0
    """Width of the hidden layer over the model's dimension; the width is rounded to the nearest multiple of 8."""
    hidden: int | None = None
    """Width of the hidden layer, E; None derives it from expansion."""
    activation: str = "gelu"
    """Activation: "gelu", "silu", "relu", "relu_squared", "sigmoid", "tanh" or "identity"."""

    def __post_init__(self):
        checks.positive(self, "expansion", "hidden")
        checks.choice("activation", self.activation, ACTIVATIONS)

    def width(self, dim: int) -> int:
        """Return E: hidden, or expansion * D rounded to a multiple of 8, an efficient size for matrix units."""
        return self.hidden or max(8, 8 * round(self.expansion * dim / 8))

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {}


class Projection(Layer):
    """Declare a projection's parameters and call its function, projection(params, x, config) -> y."""

    config: ProjectionConfig

    def run(self, params, x, state, *, reset, depth, shared):
        del state, reset, depth, shared
        return self.function(params, x, self.config), {}
