"""Provide gated linear units (Shazeer, 2020, arXiv 2002.05202): y = (act(x W_gate) * x W_in) W_out."""

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from recurrax.ops import linear, shift
from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig
from recurrax.types import Params


@dataclasses.dataclass(frozen=True)
class GLU(ProjectionConfig):
    """A GLU, (act(x W_gate) * x W_in) W_out: GeGLU with gelu, SwiGLU with silu, bilinear with identity."""

    expansion: float = 3.0
    """Width of the hidden layer over the model's dimension; the width is rounded to the nearest multiple of 8."""
    bias: bool = False
    """Whether all three matrices have a bias, as in RecurrentGemma."""

    def layer(self, dim, name=None):
        return GLULayer(self, dim, name=name)


def glu(params: Params, x: Float[Array, "B T D"], config: GLU) -> Float[Array, "B T D"]:
    """Return (act(x W_gate) * x W_in) W_out, with biases if the config has them."""

    def affine(x, kernel, bias):
        y = linear(x, params[kernel])
        return shift(y, params[bias]) if config.bias else y

    gate = ACTIVATIONS[config.activation](affine(x, "in_gate", "bias_gate"))
    return affine(gate * affine(x, "in_kernel", "bias_in"), "out_kernel", "bias_out")


class GLULayer(Projection):
    """Parameters of `glu`: 3 D E of them, and 2 E + D for biases."""

    @nn.compact
    def __call__(self, x):
        d, e, fan_in = self.dim, self.config.width(self.dim), nn.initializers.lecun_normal()
        parameters = {"in_gate": (fan_in, (d, e)), "in_kernel": (fan_in, (d, e)), "out_kernel": (fan_in, (e, d))}
        if self.config.bias:
            widths = {"bias_gate": e, "bias_in": e, "bias_out": d}
            parameters |= {name: (nn.initializers.zeros, (width,)) for name, width in widths.items()}
        return glu(self.declare(parameters), x, self.config)
