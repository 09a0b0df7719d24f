"""What every projection is: a position-wise nonlinear network; config, pure function and Linen shell, no state."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.types import Params


def relu_squared(x):
    """max(x, 0)^2 (So et al., 2021, arXiv 2109.08668)."""
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
    """Width of the hidden layer over the model's dimension, to the nearest multiple of 8."""
    hidden: int | None = None
    """That width itself; None is by expansion."""
    activation: str = "gelu"
    """Name of the activation, as in jax.nn: gelu, silu, relu, relu_squared, sigmoid, tanh or identity."""

    def __post_init__(self):
        checks.positive(self, "expansion", "hidden")
        checks.choice("activation", self.activation, ACTIVATIONS)

    def width(self, dim: int) -> int:
        """E: hidden, or expansion * D to the nearest multiple of 8 (the smallest lane that matrix units like)."""
        return self.hidden or max(8, 8 * round(self.expansion * dim / 8))

    def layer(self, dim: int, name: str | None = None) -> "Projection":
        """The Linen shell for inputs (B, T, dim)."""
        raise NotImplementedError


class Projection(nn.Module):
    """Declares a projection's parameters and calls its function. Computes in x's dtype; parameters are float32."""

    config: ProjectionConfig
    dim: int

    def declare(self, parameters: dict[str, tuple]) -> Params:
        """The parameters, float32 whatever `jax_enable_x64` is, of name -> (initializer, shape)."""
        return {name: self.param(name, *what, jnp.float32) for name, what in parameters.items()}

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        raise NotImplementedError
