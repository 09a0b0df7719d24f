"""Provide the two-layer perceptron: y = act(x W_in + b) W_out."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from recurrax.ops import linear, shift
from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig
from recurrax.types import Params


@dataclasses.dataclass(frozen=True)
class MLP(ProjectionConfig):
    """A two-layer perceptron, act(x W_in + b) W_out."""

    def layer(self, dim, name=None):
        return MLPLayer(self, dim, name=name)


def mlp(params: Params, x: Float[Array, "B T D"], config: MLP) -> Float[Array, "B T D"]:
    """Return act(x W_in + b) W_out."""
    hidden = shift(linear(x, params["in_kernel"]), params["bias"])
    return linear(ACTIVATIONS[config.activation](hidden), params["out_kernel"])


class MLPLayer(Projection):
    """Parameters of `mlp`: 2 D E + E of them."""

    @nn.compact
    def __call__(self, x):
        d, e, fan_in = self.dim, self.config.width(self.dim), nn.initializers.lecun_normal()
        parameters = {
            "in_kernel": (fan_in, (d, e)),
            "bias": (nn.initializers.zeros, (e,)),
            "out_kernel": (fan_in, (e, d)),
        }
        return mlp(self.declare(parameters), x, self.config)
