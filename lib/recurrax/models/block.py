"""Provide the block of the stack: a mixer, then a projection, each added to the residual stream.

    pre_norm          x = x + f(norm(x))                    most models
    post_norm         x = x + norm(f(x))                    OLMo 2 (arXiv 2501.00656)
    normed_residual   n = norm(x), x = r n + s f(n)         MiniMax-01 (arXiv 2501.08313)

where f is the mixer and then the projection. r and s are 1 by default.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import Depth
from recurrax.mixers import LRU, RGLRU, Attention, MixerConfig
from recurrax.ops.sharding import placed
from recurrax.projections import GLU, MLP, ProjectionConfig
from recurrax.types import Dtype, Reset, State

ORDERS = ("pre_norm", "post_norm", "normed_residual")
NORMS = ("rms", "simple_rms", "layer")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """A block that differs from the model's default block."""

    mixer: RGLRU | LRU | Attention | MixerConfig = RGLRU()
    """Layer that mixes along the sequence."""
    projection: GLU | MLP | ProjectionConfig | MixerConfig | None = None
    """Position-wise network after the mixer, or a layer with a state such as RWKV's channel mix; None disables it."""
    order: str = "pre_norm"
    """Order of norms and sums: "pre_norm", "post_norm" or "normed_residual"."""
    mixer_weights: tuple[float, float] = (1.0, 1.0)
    """Weights r of the stream and s of the mixer's output."""
    projection_weights: tuple[float, float] = (1.0, 1.0)
    """Weights r of the stream and s of the projection's output."""

    def __post_init__(self):
        checks.hashable(self)
        if not isinstance(self.mixer, MixerConfig):
            raise ValueError(f"mixer must be a mixer config, got {self.mixer!r}")
        if not isinstance(self.projection, ProjectionConfig | MixerConfig | None):
            raise ValueError(f"projection must be a projection config or None, got {self.projection!r}")
        checks.choice("order", self.order, ORDERS)

    def init_state(self, batch_size: int, dim: int, dtype: Dtype) -> State:
        """Return {"mixer": the mixer's state}, with "projection" if that layer has a state."""
        state = {"mixer": self.mixer.init_state(batch_size, dim, dtype)}
        if isinstance(self.projection, MixerConfig):
            state["projection"] = self.projection.init_state(batch_size, dim, dtype)
        return state


@dataclasses.dataclass(frozen=True)
class Norm:
    """Kind, epsilon and dtype of a model's norms."""

    kind: str
    eps: float
    dtype: str

    def __call__(self, name: str, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return the norm of x; its parameters have this name in the calling layer."""
        dtype = jnp.dtype(self.dtype)
        if self.kind == "layer":
            # Two passes: E x^2 - (E x)^2 loses precision where the mean is large.
            layer = nn.LayerNorm(epsilon=self.eps, dtype=dtype, use_fast_variance=False, name=name)
        else:
            layer = nn.RMSNorm(epsilon=self.eps, dtype=dtype, use_scale=self.kind == "rms", name=name)
        # Flax's norms compute in float32 and leave the casts of x and of the scale to JAX's promotion rule.
        with jax.numpy_dtype_promotion("standard"):
            return layer(x)


class Block(nn.Module):
    """Compute x + mixer(norm(x)), then x + projection(norm(x)), in the block's order of norms and sums.

    The state has the structure of `BlockConfig.init_state`. `shared` is the value residual of a layer below within one
    call (`Mixer.shared`) if the model `shares`, else None.
    """

    config: BlockConfig
    dim: int
    norm: Norm
    shares: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        shared: Array | None,
        state: State | None,
        reset: Reset | None,
        depth: Depth = Depth(),  # noqa: B008
    ) -> tuple[Float[Array, "B T D"], Array | None, State]:
        config, dtype = self.config, jnp.dtype(self.norm.dtype)
        state = state or {"mixer": None, "projection": None}
        after = {}

        def mix(x):
            nonlocal shared
            layer = config.mixer.layer(self.dim, dtype, name="mixer")
            y, after["mixer"] = layer(x, state["mixer"], reset=reset, depth=depth, shared=shared)
            if self.shares:
                shared = layer.shared(x, state["mixer"], reset, shared)
            return y

        def project(x):
            if not isinstance(config.projection, MixerConfig):
                return config.projection.layer(self.dim, name="projection")(x)
            layer = config.projection.layer(self.dim, dtype, name="projection")
            y, after["projection"] = layer(x, state["projection"], reset=reset, depth=depth)
            return y

        x = self._add(x, mix, "mixer_norm", config.mixer_weights)
        if config.projection is not None:
            x = self._add(x, project, "projection_norm", config.projection_weights)
        return placed(x, "B T"), shared, after

    def _add(self, x, f, name, weights):
        """Return the weighted sum of the stream and f of the stream."""
        if self.config.order == "post_norm":
            y = self.norm(name, f(x))
        elif self.config.order == "normed_residual":
            x = self.norm(name, x)
            y = f(x)
        else:
            y = f(self.norm(name, x))
        if weights == (1.0, 1.0):
            return x + y
        return weights[0] * x + weights[1] * y
