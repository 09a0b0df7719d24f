"""Define the base classes of projections, position-wise nonlinear networks of config, pure function and Linen module.

Projections have no state.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.types import Params


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
class ProjectionConfig:
    """Hyperparameters of a projection."""

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

    def layer(self, dim: int, name: str | None = None) -> "Projection":
        """Return the Linen module for inputs (B, T, dim)."""
        raise NotImplementedError


class Projection(nn.Module):
    """Declare a projection's parameters and call its function. It computes in x's dtype; parameters are float32."""

    config: ProjectionConfig
    dim: int

    def declare(self, parameters: dict[str, tuple]) -> Params:
        """Create the parameters from name -> (initializer, shape), in float32 also with `jax_enable_x64`."""
        return {name: self.param(name, *what, jnp.float32) for name, what in parameters.items()}

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        raise NotImplementedError
