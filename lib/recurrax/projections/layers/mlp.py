"""Provide the two-layer perceptron: y = act(x W_in + b) W_out."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.mixers.base import fan_in, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, shift
from recurrax.parameters import reads, vector, writes
from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig
from recurrax.types import Params


@dataclasses.dataclass(frozen=True)
class MLP(ProjectionConfig):
    """A two-layer perceptron, act(x W_in + b) W_out."""

    def layer(self, dim, dtype=jnp.float32, name=None):
        return MLPLayer(self, dim, dtype, name=name)


def mlp(params: Params, x: Float[Array, "B T D"], config: MLP) -> Float[Array, "B T D"]:
    """Return act(x W_in + b) W_out."""
    hidden = shift(linear(x, params["in_kernel"]), params["bias"])
    return linear(mark("hidden", ACTIVATIONS[config.activation](hidden)), params["out_kernel"])


class MLPLayer(Projection):
    """Parameters of `mlp`: 2 D E + E of them."""

    function = staticmethod(mlp)

    def parameters(self, depth):
        d, e = self.dim, self.config.width(self.dim)
        return {
            "in_kernel": reads(fan_in, d, e, "hidden"),
            "bias": vector(zeros, e, "hidden"),
            "out_kernel": writes(fan_in, e, d, "hidden"),
        }
