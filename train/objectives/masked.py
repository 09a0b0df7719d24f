"""Provides masked language modelling: -log p(token) of tokens that the model does not see (arXiv 1810.04805).

A fraction `rate` of the tokens is chosen at random. Of these, a fraction `random` is replaced by random tokens, a
fraction `kept` stays as it is, and all others become the mask token. Tokens that open a document are never chosen.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from recurrax import checks
from recurrax.models import BackboneConfig, ClassifierConfig
from train.objectives.base import Objective, check_fraction


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """Predict hidden tokens of a text; for classifiers whose mixers read both directions."""

    rate: float = 0.15
    """Fraction of tokens that are predicted."""
    random: float = 0.1
    """Fraction of those that are replaced by a random token."""
    kept: float = 0.1
    """Fraction of those that stay as they are."""
    mask_token: int = 257
    """Token that replaces the others; 257 is no byte."""

    models = (ClassifierConfig,)
    data = "text"
    unit = "nats per hidden token"
    metrics = rising = ("accuracy",)
    criteria = ("loss", "accuracy")
    carries_state = False

    def __post_init__(self):
        check_fraction(self, "rate", "random", "kept")
        checks.positive(self, "rate")
        if self.random + self.kept > 1:
            raise ValueError(f"objective.random + kept must be at most 1, got {self.random} + {self.kept}")

    def check(self, model: BackboneConfig, data: str) -> None:
        super().check(model, data)
        if model.pooling != "none":
            raise ValueError(f"objective Masked needs model.pooling 'none', got {model.pooling!r}")
        if model.num_classes != model.vocab_size or not 0 <= self.mask_token < model.vocab_size:
            raise ValueError(
                f"objective Masked needs a class for each token, and mask_token among them; got {model.num_classes} "
                f"classes, {model.vocab_size} tokens and mask_token {self.mask_token}"
            )

    def prepare(self, batch, key):
        """Return the batch with hidden tokens; targets are the tokens, and weights are 1 where one is predicted."""
        tokens = batch["inputs"]
        choice, how, other = (jax.random.fold_in(key, i) for i in range(3))
        chosen = (jax.random.uniform(choice, tokens.shape) < self.rate) & ~batch["reset"]
        how = jax.random.uniform(how, tokens.shape)
        # Random tokens are tokens of the batch, each from another place: of a kind that occurs in the text.
        shuffled = jnp.roll(tokens.ravel(), 1 + jax.random.randint(other, (), 0, tokens.size - 1)).reshape(tokens.shape)
        hidden = jnp.where(how < self.random, shuffled, self.mask_token)
        hidden = jnp.where(how >= 1 - self.kept, tokens, hidden)
        inputs = jnp.where(chosen, hidden, tokens)
        return {**batch, "inputs": inputs, "targets": tokens, "weights": chosen.astype(jnp.float32)}

    def per_target(self, outputs, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"])
        right = (outputs.argmax(-1) == batch["targets"]).astype(jnp.float32)
        return losses, batch["weights"], {"accuracy": right}
