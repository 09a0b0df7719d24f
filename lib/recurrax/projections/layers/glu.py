"""Provide gated linear units (Shazeer, 2020, arXiv 2002.05202): y = (act(x W_gate) * x W_in) W_out."""

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
class GLU(ProjectionConfig):
    """A GLU, (act(x W_gate) * x W_in) W_out: GeGLU with gelu, SwiGLU with silu, bilinear with identity."""

    expansion: float = 3.0
    """Width of the hidden layer over the model's dimension; the width is rounded to the nearest multiple of 8."""
    bias: bool = False
    """Whether all three matrices have a bias, as in RecurrentGemma."""

    def layer(self, dim, dtype=jnp.float32, name=None):
        return GLULayer(self, dim, dtype, name=name)


def glu(params: Params, x: Float[Array, "B T D"], config: GLU) -> Float[Array, "B T D"]:
    """Return (act(x W_gate) * x W_in) W_out, with biases if the config has them."""

    def affine(x, kernel, bias):
        y = linear(x, params[kernel])
        return shift(y, params[bias]) if config.bias else y

    gate = ACTIVATIONS[config.activation](affine(x, "in_gate", "bias_gate"))
    return affine(mark("hidden", gate * affine(x, "in_kernel", "bias_in")), "out_kernel", "bias_out")


class GLULayer(Projection):
    """Parameters of `glu`: 3 D E of them, and 2 E + D for biases."""

    function = staticmethod(glu)

    def parameters(self, depth):
        d, e = self.dim, self.config.width(self.dim)
        biases = {}
        if self.config.bias:
            biases = {name: vector(zeros, e, "hidden") for name in ("bias_gate", "bias_in")}
            biases["bias_out"] = vector(zeros, d, "embed")
        return {
            "in_gate": reads(fan_in, d, e, "hidden"),
            "in_kernel": reads(fan_in, d, e, "hidden"),
            "out_kernel": writes(fan_in, e, d, "hidden"),
            **biases,
        }
