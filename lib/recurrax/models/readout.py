"""Provide the classifier and the regressor, which compute one vector, or one per step, from the backbone's outputs."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from recurrax import checks, sites
from recurrax.models.backbone import Backbone, BackboneConfig
from recurrax.models.embeddings import Affine, Embedding
from recurrax.models.tokens import indices
from recurrax.types import ArrayLike, Reset, State

POOLINGS = ("mean", "last", "none")


@dataclasses.dataclass(frozen=True)
class ReadoutConfig(BackboneConfig):
    """Hyperparameters that classifiers and regressors share."""

    vocab_size: int | None = None
    """Number of distinct input tokens; None if inputs are vectors (B, T, F)."""
    pooling: str = "mean"
    """Pooling over time: "mean" is the average, "last" the last step, "none" one output per step."""

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
    """Hyperparameters of a classifier."""

    num_classes: int = 10
    """Number of classes."""

    _outputs_name = "num_classes"


@dataclasses.dataclass(frozen=True)
class RegressorConfig(ReadoutConfig):
    """Hyperparameters of a regressor."""

    num_targets: int = 1
    """Number of predicted values."""

    _outputs_name = "num_targets"


class _Readout(nn.Module):
    """Compute out = head(pool(backbone(embed(inputs)))) and return (out, state) like every model."""

    config: ReadoutConfig

    outputs: ClassVar[str]
    """The name of the outputs for `recurrax.probes`."""

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

        `mask` weights the steps of a mean; a step of weight 0 is left out, even if it is NaN. Within a trace, a token
        that is not in the vocabulary makes the outputs NaN from its position to the end of its document.

        Raises:
          ValueError: outside of a trace, a token is not in the vocabulary; a mask is given without mean pooling.
        """
        config = self.config
        checks.not_empty("inputs", inputs)
        if mask is not None and config.pooling != "mean":
            raise ValueError(f"mask weighs the steps of a mean; with pooling {config.pooling!r} there is none")
        if config.vocab_size is None:
            affine = Affine(config.dim, (None, "embed"), name="in_embedding")
            x = affine(jnp.asarray(inputs, config.dtype))
        else:
            embedding = Embedding(config.vocab_size, config.dim, name="embedding")
            x = embedding(indices(inputs, config.vocab_size)).astype(config.dtype)
        x = sites.visit(self, "embedding", x)
        x, state = Backbone(config, name="backbone")(x, state, reset=reset)
        x = x.astype(jnp.float32)
        if config.pooling == "last":
            x = x[:, -1]
        elif config.pooling == "mean":
            weights = jnp.ones(x.shape[:2], x.dtype) if mask is None else jnp.asarray(mask, jnp.float32)
            # A step of weight 0 is left out, even if it is NaN.
            x = jnp.where(weights[..., None] == 0, 0, x * weights[..., None]).sum(1) / weights.sum(1)[:, None]
        outputs = Affine(config.num_outputs, ("embed", "outputs"), "head", name="out_head")(x)
        return sites.visit(self, self.outputs, outputs), state

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first step of `batch_size` sequences."""
        return Backbone(self.config, parent=None).init_state(batch_size)


class Classifier(_Readout):
    """Compute logits of `num_classes` classes from a sequence of tokens or vectors."""

    config: ClassifierConfig
    outputs = "logits"


class Regressor(_Readout):
    """Compute `num_targets` real numbers from a sequence of tokens or vectors."""

    config: RegressorConfig
    outputs = "predictions"
