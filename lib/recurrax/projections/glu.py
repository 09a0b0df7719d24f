"""Gated linear units (Shazeer, 2020, arXiv 2002.05202): y = (act(x W_gate) * x W_in) W_out."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from recurrax.ops import linear
from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig
from recurrax.types import Params


@dataclasses.dataclass(frozen=True)
class GLU(ProjectionConfig):
    """(act(x W_gate) * x W_in) W_out: GeGLU with gelu, SwiGLU with silu, bilinear with identity."""

    expansion: float = 3.0
    """Width of the hidden layer over the model's dimension."""

    def layer(self, dim, name=None):
        return GLULayer(self, dim, name=name)


def glu(params: Params, x: Float[Array, "B T D"], config: GLU) -> Float[Array, "B T D"]:
    """(act(x W_gate) * x W_in) W_out."""
    gate = ACTIVATIONS[config.activation](linear(x, params["in_gate"]))
    return linear(gate * linear(x, params["in_kernel"]), params["out_kernel"])


class GLULayer(Projection):
    """Parameters of `glu`: 3 D E of them."""

    @nn.compact
    def __call__(self, x):
        d, e, fan_in = self.dim, self.config.width(self.dim), nn.initializers.lecun_normal()
        params = {
            "in_gate": self.param("in_gate", fan_in, (d, e)),
            "in_kernel": self.param("in_kernel", fan_in, (d, e)),
            "out_kernel": self.param("out_kernel", fan_in, (e, d)),
        }
        return glu(params, x, self.config)
