"""Provides LoRA: the change of a matrix as the product of two of low rank (Hu et al., arXiv 2106.09685).

    W' = W + (alpha / rank) A B,    W (n, m), A (n, rank), B (rank, m)

A is drawn and B is zero at first, so W' = W. Matrices that are stacked over depth, experts or blocks have a pair each.
"""

import dataclasses

import flax.linen as nn
import jax

from recurrax import checks, patterns
from recurrax.adapters.base import Adapter, Materialised
from recurrax.parameters import Parameter, flat, nested


@dataclasses.dataclass(frozen=True)
class LoRA(Adapter):
    """Changes of low rank of matrices."""

    rank: int = 8
    """Rank of the change of each matrix."""
    alpha: float | None = None
    """Factor of the change, alpha / rank; None: twice the rank."""
    targets: tuple[str, ...] = ("matrix",)
    """Roles, or patterns of paths, of the parameters that are changed."""

    def __post_init__(self):
        checks.positive(self, "rank", "alpha")
        checks.hashable(self)

    def declare(self, config, declared):
        del config
        table = {}
        for path in sorted(patterns.select("adapter.targets", self.targets, declared)):
            matrix = declared[path]
            depth = sum(axis == "layers" for axis in matrix.axes)
            if len(matrix.shape) - depth < 2:
                raise ValueError(f"adapter.targets: {path} has shape {matrix.shape}, which is no matrix")
            *stack, n, m = matrix.shape
            *stacked, reads, writes = matrix.axes
            table[f"{path}/a"] = Parameter(_draw, (*stack, n, self.rank), (*stacked, reads, None))
            zeros = nn.initializers.zeros_init()
            table[f"{path}/b"] = Parameter(zeros, (*stack, self.rank, m), (*stacked, None, writes))
        return table

    def materialise(self, config, params, own):
        del config
        factor = (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank
        matrices, pairs = flat(params), flat(own)
        changed = {path.removesuffix("/a") for path in pairs if path.endswith("/a")}
        return Materialised(
            nested(
                {
                    path: w + (factor * (pairs[f"{path}/a"] @ pairs[f"{path}/b"])).astype(w.dtype)
                    if path in changed
                    else w
                    for path, w in matrices.items()
                }
            ),
            None,
        )


def _draw(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Return entries of variance 1 / n, so that x A has the size of x."""
    return jax.random.normal(key, shape, dtype) * shape[-2] ** -0.5
