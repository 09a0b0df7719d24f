"""Provide the norms of a model, which all have one kind, epsilon and dtype.

rms          scale * x / sqrt(mean x^2 + eps)                       RMSNorm (arXiv 1910.07467)
simple_rms   x / sqrt(mean x^2 + eps)
layer        scale * (x - mean x) / sqrt(var x + eps) + bias        LayerNorm (arXiv 1607.06450)
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.mixers import parts
from recurrax.mixers.base import ones, zeros
from recurrax.parameters import Parameter, declare, vector

NORMS = ("rms", "simple_rms", "layer")


@dataclasses.dataclass(frozen=True)
class Norm:
    """Kind, epsilon and dtype of a model's norms."""

    kind: str
    eps: float
    dtype: str

    def __call__(self, name: str, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return the norm of x; its parameters have this name in the calling layer."""
        return NormLayer(self, x.shape[-1], name=name)(x)


class NormLayer(nn.Module):
    """Parameters of a norm: D for RMSNorm, 2 D for LayerNorm, none without a scale."""

    config: Norm
    dim: int

    def parameters(self) -> dict[str, Parameter]:
        """Return the table of parameters by name."""
        scale, bias = vector(ones, self.dim, "embed"), vector(zeros, self.dim, "embed")
        return {"rms": {"scale": scale}, "simple_rms": {}, "layer": {"scale": scale, "bias": bias}}[self.config.kind]

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        params, config = declare(self, self.parameters()), self.config
        if config.kind == "layer":
            y = parts.layer_norm(x, params["scale"], params["bias"], config.eps)
        else:
            y = parts.rms_norm(x, params.get("scale"), config.eps)
        return y.astype(jnp.dtype(config.dtype))
