"""Provide the embeddings and heads of models whose inputs or outputs are vectors, and the embedding of tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recurrax.mixers.base import fan_in, zeros
from recurrax.parameters import Parameter, declare, vector


class Affine(nn.Module):
    """Compute x kernel + bias in x's dtype. Parameters: F E + E of them."""

    width: int
    """Number of outputs, E."""
    axes: tuple[str | None, str]
    """Logical axes of the kernel (F, E)."""
    role: str = "matrix"
    """Role of the kernel."""

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return the table of parameters by name, for this many inputs."""
        return {
            "kernel": Parameter(fan_in, (inputs, self.width), self.axes, self.role),
            "bias": vector(zeros, self.width, self.axes[-1]),
        }

    @nn.compact
    def __call__(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch E"]:
        params = declare(self, self.parameters(x.shape[-1]))
        bias = params["bias"].astype(x.dtype)
        return x @ params["kernel"].astype(x.dtype) + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))


class Embedding(nn.Module):
    """Look up the rows of a table. Parameters: V D of them, with entries of variance 1 / D."""

    vocab_size: int
    dim: int

    def parameters(self) -> dict[str, Parameter]:
        """Return the table of parameters by name."""
        rows = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        return {"embedding": Parameter(rows, (self.vocab_size, self.dim), ("vocab", "embed"), "embedding")}

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return jnp.take(declare(self, self.parameters())["embedding"], tokens, axis=0)
