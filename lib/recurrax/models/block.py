"""Provide the block of the stack: a mixer, then a projection, each added to the residual stream.

    pre_norm          x = x + f(norm(x))                    most models
    post_norm         x = x + norm(f(x))                    OLMo 2 (arXiv 2501.00656)
    normed_residual   n = norm(x), x = r n + s f(n)         MiniMax-01 (arXiv 2501.08313)

where f is the mixer and then the projection. r and s are 1 by default.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks, sites
from recurrax.layers import Depth, LayerConfig
from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models.dropout import drop, layer_drop_rate
from recurrax.models.norms import Norm
from recurrax.ops.sharding import placed
from recurrax.projections import GLU, MLP
from recurrax.types import Dtype, Reset, State

ORDERS = ("pre_norm", "post_norm", "normed_residual")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """A block that differs from the model's default block."""

    mixer: RGLRU | LRU | Attention | LayerConfig = RGLRU()
    """Layer that mixes along the sequence."""
    projection: GLU | MLP | LayerConfig | None = None
    """Position-wise network after the mixer, or any other layer; None disables it."""
    order: str = "pre_norm"
    """Order of norms and sums: "pre_norm", "post_norm" or "normed_residual"."""
    mixer_weights: tuple[float, float] = (1.0, 1.0)
    """Weights r of the stream and s of the mixer's output."""
    projection_weights: tuple[float, float] = (1.0, 1.0)
    """Weights r of the stream and s of the projection's output."""

    def __post_init__(self):
        checks.hashable(self)
        if not isinstance(self.mixer, LayerConfig):
            raise ValueError(f"mixer must be the config of a layer, such as RGLRU(), got {self.mixer!r}")
        if not isinstance(self.projection, LayerConfig | None):
            raise ValueError(
                f"projection must be the config of a layer, such as GLU(), or None, got {self.projection!r}"
            )
        checks.choice("order", self.order, ORDERS)

    @property
    def layers(self) -> dict[str, LayerConfig]:
        """The layers in the order in which they run, by their names among the parameters and states."""
        return {"mixer": self.mixer} | ({} if self.projection is None else {"projection": self.projection})

    def with_context(self, context: int) -> "BlockConfig":
        """Return this config with the limit `context` in every layer whose context is limited."""
        return dataclasses.replace(self, **{name: layer.with_context(context) for name, layer in self.layers.items()})

    def init_state(self, batch_size: int, dim: int, dtype: Dtype) -> State:
        """Return the state of each layer, by its name."""
        return {name: layer.init_state(batch_size, dim, dtype) for name, layer in self.layers.items()}


class Block(nn.Module):
    """Compute x + mixer(norm(x)), then x + projection(norm(x)), in the block's order of norms and sums.

    The state has the structure of `BlockConfig.init_state`. `shared` is the value residual of a layer below within one
    call (`Mixer.shared`) if the model `shares`, else None.
    """

    config: BlockConfig
    dim: int
    norm: Norm
    shares: bool = False
    dropout: float = 0.0
    layer_drop: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        shared: Array | None,
        state: State | None,
        reset: Reset | None,
        depth: Depth = Depth(),  # noqa: B008
    ) -> tuple[Float[Array, "B T D"], Array | None, State]:
        config, after = self.config, {}
        weights = {"mixer": config.mixer_weights, "projection": config.projection_weights}
        between = {"mixer": "stream_before", "projection": "stream_between"}
        visit = functools.partial(sites.visit, self, index=depth.index)
        training = self.has_rng("dropout")
        skip_key = self.make_rng("dropout") if training and self.layer_drop else None  # one decision for both layers
        for name, layer_config in config.layers.items():
            layer = layer_config.layer(self.dim, jnp.dtype(self.norm.dtype), name=name)
            before = None if state is None else state[name]
            x = visit(between[name], x)
            stream = self.norm(f"{name}_norm", x) if config.order == "normed_residual" else x
            given = self.norm(f"{name}_norm", x) if config.order == "pre_norm" else stream
            given, below = visit(f"{name}/input", given), shared
            if layer_config.uses_value_residual:
                below = visit(f"{name}/value_residual", shared)
            y, after[name] = layer(given, before, reset=reset, depth=depth, shared=below)
            if self.shares:
                shared = layer.shared(given, before, reset, shared)
            after[name], y = visit(f"{name}/state", after[name]), visit(f"{name}/output", y)
            if config.order == "post_norm":
                y = self.norm(f"{name}_norm", y)
            if training and self.dropout:
                y = drop(self.make_rng("dropout"), y, self.dropout, y.shape)
            if skip_key is not None:
                y = drop(skip_key, y, layer_drop_rate(self.layer_drop, depth), (y.shape[0], 1, 1))
            x = weighted_sum(weights[name], stream, y)
        return placed(visit("stream_after", x), "B T"), shared, after


def weighted_sum(weights: tuple[float, float], stream: Array, y: Array) -> Array:
    """Return r stream + s y for the weights (r, s)."""
    return stream + y if weights == (1.0, 1.0) else weights[0] * stream + weights[1] * y
