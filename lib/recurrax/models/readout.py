"""Classifier and regressor: one vector (or one per step) read out of the backbone."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from recurrax import checks
from recurrax.models.backbone import Backbone, BackboneConfig
from recurrax.models.tokens import indices
from recurrax.types import ArrayLike, Reset, State

POOLINGS = ("mean", "last", "none")


@dataclasses.dataclass(frozen=True)
class ReadoutConfig(BackboneConfig):
    """What the heads share."""

    vocab_size: int | None = None
    """Inputs are tokens below this; None: inputs are vectors (B, T, F)."""
    pooling: str = "mean"
    """mean: average over time; last: the last step; none: one output per step."""

    def __post_init__(self):
        super().__post_init__()
        checks.choice("pooling", self.pooling, POOLINGS)
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")
        if self.num_outputs < 1:
            raise ValueError(f"{self._outputs_name} must be at least 1, got {self.num_outputs}")

    @property
    def num_outputs(self) -> int:
        return getattr(self, self._outputs_name)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(ReadoutConfig):
    """A classifier's shape."""

    num_classes: int = 10
    """Classes to tell apart."""

    _outputs_name = "num_classes"


@dataclasses.dataclass(frozen=True)
class RegressorConfig(ReadoutConfig):
    """A regressor's shape."""

    num_targets: int = 1
    """Numbers to predict."""

    _outputs_name = "num_targets"


class _Readout(nn.Module):
    """out = head(pool(backbone(embed(inputs)))); returns (out, state) like every model."""

    config: ReadoutConfig

    @nn.compact
    def __call__(
        self,
        inputs: Inexact[ArrayLike, "B T F"] | Int[ArrayLike, "B T"],
        state: State | None = None,
        *,
        reset: Reset | None = None,
        mask: Float[ArrayLike, "B T"] | None = None,
    ) -> tuple[Float[Array, "..."], State]:
        """Return (B, outputs), or (B, T, outputs) with pooling "none", and the state after the last step.

        `mask` weighs the steps of a mean; 0 leaves one out, whatever it holds. Within a trace, a token that is not in
        the vocabulary makes the outputs of its position and of later ones in its document NaN.

        Raises:
          ValueError: outside of a trace, a token is not in the vocabulary; there is a mask, and no mean.
        """
        config = self.config
        checks.not_empty("inputs", inputs)
        if mask is not None and config.pooling != "mean":
            raise ValueError(f"mask weighs the steps of a mean; with pooling {config.pooling!r} there is none")
        if config.vocab_size is None:
            x = nn.Dense(config.dim, name="in_embedding", dtype=jnp.dtype(config.dtype))(inputs)
        else:
            embedding = nn.Embed(config.vocab_size, config.dim, name="embedding", dtype=jnp.dtype(config.dtype))
            x = embedding(indices(inputs, config.vocab_size))
        x, state = Backbone(config, name="backbone")(x, state, reset=reset)
        x = x.astype(jnp.float32)
        if config.pooling == "last":
            x = x[:, -1]
        elif config.pooling == "mean":
            weights = jnp.ones(x.shape[:2], x.dtype) if mask is None else jnp.asarray(mask, jnp.float32)
            # A step of weight 0 is left out, whatever it holds.
            x = jnp.where(weights[..., None] == 0, 0, x * weights[..., None]).sum(1) / weights.sum(1)[:, None]
        return nn.Dense(config.num_outputs, name="out_head", dtype=jnp.float32)(x), state

    def init_state(self, batch_size: int) -> State:
        """The state before the first step of `batch_size` sequences."""
        return Backbone(self.config, parent=None).init_state(batch_size)


class Classifier(_Readout):
    """Logits of `num_classes` classes from a sequence of tokens or vectors."""

    config: ClassifierConfig


class Regressor(_Readout):
    """`num_targets` real numbers from a sequence of tokens or vectors."""

    config: RegressorConfig
