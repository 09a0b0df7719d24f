"""Provide the language model: token embedding, backbone, and a head that may share the embedding table."""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from recurrax import checks, sites
from recurrax.models.backbone import Backbone, BackboneConfig
from recurrax.models.norms import Norm
from recurrax.models.tokens import indices
from recurrax.ops import contract
from recurrax.ops.sharding import placed
from recurrax.parameters import Parameter, declare
from recurrax.types import ArrayLike, Reset, State


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig(BackboneConfig):
    """Hyperparameters of a language model."""

    vocab_size: int = 288
    """Number of distinct tokens."""
    tied_head: bool = True
    """Whether the head uses the embedding table."""
    embedding_scale: float | None = None
    """Factor of the embedding; None is sqrt(dim), which scales rows of norm 1 to entries of variance 1."""
    embedding_norm: bool = False
    """Whether a norm follows the embedding, as in RWKV."""
    logit_soft_cap: float | None = None
    """Soft cap c of the logits, c tanh(. / c); None disables it."""

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")
        checks.positive(self, "embedding_scale", "logit_soft_cap")
        for layer in self.layout.layers:
            if not layer.causal:
                raise ValueError(
                    f"{layer} is not causal, so it would see the token that a language model predicts: choose causal "
                    "layers, or a Classifier or Regressor"
                )


class LanguageModel(nn.Module):
    """Compute logits_t = head(backbone(embedding(tokens))_t), the prediction of token t + 1.

    `LanguageModel(config).apply(params, tokens, state, reset=reset) -> (logits, state)` serves whole sequences, chunks
    and single tokens.
    """

    config: LanguageModelConfig

    def parameters(self) -> dict[str, Parameter]:
        """Return the table of the parameters outside of the backbone."""
        config = self.config
        # Rows have norm 1 and are scaled to entries of variance 1 when they enter the residual stream: as a tied head
        # they then give logits of order 1.
        rows = nn.initializers.normal(config.dim**-0.5)
        table = {"embedding": Parameter(rows, (config.vocab_size, config.dim), ("vocab", "embed"), "embedding")}
        if not config.tied_head:
            head = nn.initializers.lecun_normal()
            table["out_kernel"] = Parameter(head, (config.dim, config.vocab_size), ("embed", "vocab"), "head")
        return table

    @nn.compact
    def __call__(
        self, tokens: Int[ArrayLike, "B T"], state: State | None = None, *, reset: Reset | None = None
    ) -> tuple[Float[Array, "B T vocab_size"], State]:
        """Return float32 logits and the state after the last token; state=None starts a sequence.

        Within a trace, an id that is not in the vocabulary makes the logits NaN from its position to the end of its
        document, and the state as well; earlier logits stay correct.

        Raises:
          ValueError: outside of a trace, an id is not in the vocabulary.
        """
        config = self.config
        checks.not_empty("tokens", tokens)
        params = declare(self, self.parameters())
        table = params["embedding"]
        scale = math.sqrt(config.dim) if config.embedding_scale is None else config.embedding_scale
        # Each device looks up its tokens in the whole table.
        x = jnp.take(placed(table, ". ."), indices(tokens, config.vocab_size), axis=0)
        x = placed(x.astype(config.dtype) * scale, "B T")
        if config.embedding_norm:
            x = Norm(config.norm, config.norm_eps, config.dtype)("embedding_norm", x)
        x = sites.visit(self, "embedding", x)
        x, state = Backbone(config, name="backbone")(x, state, reset=reset)
        head = table.T if config.tied_head else params["out_kernel"]
        logits = contract("btd,dv->btv", x, head, jnp.float32)
        if config.logit_soft_cap is not None:
            logits = config.logit_soft_cap * jnp.tanh(logits / config.logit_soft_cap)
        return placed(sites.visit(self, "logits", logits), "B T H"), state

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token of `batch_size` sequences."""
        return Backbone(self.config, parent=None).init_state(batch_size)
