"""Provides the objective of language models: -log p(next token), in nats.

    loss = -sum_k q_k log p_k + z_loss * (log sum_k exp logit_k)^2,    q = (1 - s) onehot(target) + s / vocab_size

The z-loss keeps logits from drifting (Chowdhery et al., PaLM, arXiv 2204.02311).
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import optax

from recurrax import checks
from recurrax.models import LanguageModelConfig
from train.objectives.base import Objective, check_fraction, cross_entropy


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """Predict the next token. Held-out text is evaluated without label smoothing and z-loss."""

    label_smoothing: float = 0.0
    """Weight s of the uniform distribution in the targets."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's denominator; PaLM has 1e-4."""

    models = (LanguageModelConfig,)
    data = "text"
    unit = "bits per byte"
    metrics = ("cross_entropy", "bytes_per_token")

    def __post_init__(self):
        check_fraction(self, "label_smoothing")
        checks.not_negative(self, "z_loss")

    def per_target(self, outputs, batch):
        plain = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"])
        counts = {"bytes_per_token": batch["bytes"]} if "bytes" in batch else {}
        if not (self.label_smoothing or self.z_loss):
            return plain, batch["weights"], counts
        loss = cross_entropy(outputs, batch["targets"], self.label_smoothing) if self.label_smoothing else plain
        if self.z_loss:
            loss = loss + self.z_loss * jax.nn.logsumexp(outputs, axis=-1) ** 2
        return loss, batch["weights"], {"cross_entropy": plain, **counts}

    def held_out(self) -> "NextToken":
        return NextToken()

    def in_unit(self, values: Mapping[str, float]) -> float:
        return values.get("cross_entropy", values["loss"]) / math.log(2) / values.get("bytes_per_token", 1)

    def show_held_out(self, values: Mapping[str, float]) -> str:
        return f"{values['loss']:.4f} nats, {self.in_unit(values):.4f} bits per byte"

    def show(self, values: Mapping[str, float]) -> str:
        more = f", cross entropy {values['cross_entropy']:.4f}" if "cross_entropy" in values else ""
        return f"loss {values['loss']:.4f}{more} ({self.in_unit(values):.3f} bits/byte)"
