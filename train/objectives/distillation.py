"""Provides distillation: a student learns from frozen teachers what they make of the same tokens.

    loss = h (-log p_t) + s c^2 KL(q || p at temperature c) + sum_m w_m |x_m - y_m|^2 / mean |y_m|^2

for the target token t, where q is the mean over teachers of their distributions at temperature c (Hinton et al.,
arXiv 1503.02531), and x_m and y_m are arrays within the student and within a teacher, named as in `recurrax.probes`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from recurrax import checks, probes
from recurrax.models import LanguageModelConfig, build, parameters
from train.objectives.base import summed
from train.objectives.next_token import NextToken
from train.starts import Pretrained, Run


@dataclasses.dataclass(frozen=True)
class Match:
    """An array within the student that is drawn to one of the same shape within a teacher."""

    student: str
    """Name of a site, such as "2/mixer/output" or "final_norm"."""
    teacher: str
    """Name of a site of the teacher."""
    weight: float = 1.0
    """Weight w of the squared distance, relative to the teacher's mean square."""
    of: int = 0
    """Number of the teacher."""

    def __post_init__(self):
        checks.positive(self, "weight")


@dataclasses.dataclass(frozen=True)
class Distillation(NextToken):
    """Learn from teachers, which are read at the start of each call. Held-out text is evaluated as by `NextToken`."""

    teachers: tuple[Run | Pretrained, ...] = ()
    """Runs or published checkpoints of language models with the student's vocabulary."""
    temperature: float = 2.0
    """Divisor c of all logits in the divergence."""
    soft: float = 1.0
    """Weight s of the divergence from the teachers."""
    hard: float = 0.0
    """Weight h of the loss of `NextToken`."""
    matches: tuple[Match, ...] = ()
    """Arrays that are drawn to those of teachers."""

    metrics = ("cross_entropy", "divergence", "distance", "bytes_per_token")

    def __post_init__(self):
        super().__post_init__()
        checks.hashable(self)
        checks.positive(self, "temperature")
        checks.not_negative(self, "soft", "hard")
        if not self.teachers:
            raise ValueError("objective Distillation needs teachers, such as teachers=(Run('runs/default'),)")
        for match in self.matches:
            if not 0 <= match.of < len(self.teachers):
                raise ValueError(f"objective.matches: there is no teacher {match.of}; there are {len(self.teachers)}")

    def frozen_declarations(self, model):
        """Return the teachers' parameters.

        Raises:
          ValueError: a teacher cannot be read or has another vocabulary; a match names no site, or sites of different
            shapes.
        """
        for match in self.matches:
            teacher = _config(self.teachers[match.of], model.vocab_size)
            jax.eval_shape(
                functools.partial(_distance, match), _site(model, match.student), _site(teacher, match.teacher)
            )
        return {
            f"{i}/{path}": parameter
            for i, teacher in enumerate(self.teachers)
            for path, parameter in parameters(_config(teacher, model.vocab_size)).items()
        }

    def frozen_arrays(self):
        return {f"{i}/{path}": each for i, t in enumerate(self.teachers) for path, each in t.stored().items()}

    def loss(self, model, params, batch, state=None, *, frozen=None, key=None, rngs=None, mutable=()):
        names = [match.student for match in self.matches]
        call = functools.partial(probes.apply_and_record, inputs=batch["inputs"], reset=batch.get("reset"))
        (outputs, state), own, collections = call(
            model, {"params": params}, names=names, state=state, rngs=rngs, mutable=mutable
        )
        losses, weights, metrics = self.per_target(outputs, batch)
        taught, theirs = [], []
        for i, teacher in enumerate(self.teachers):
            wanted = sorted({match.teacher for match in self.matches if match.of == i})
            config = _config(teacher, model.config.vocab_size)
            (logits, _), arrays, _ = call(build(config), {"params": frozen[str(i)]}, names=wanted)
            taught.append(jax.nn.log_softmax(logits / self.temperature))
            theirs.append(arrays)
        log_q = jax.lax.stop_gradient(jax.nn.logsumexp(jnp.stack(taught), axis=0) - math.log(len(taught)))
        log_p = jax.nn.log_softmax(outputs / self.temperature)
        divergence = (jnp.exp(log_q) * (log_q - log_p)).sum(-1)
        metrics = {"cross_entropy": losses, **metrics, "divergence": divergence}
        losses = self.hard * losses + self.soft * self.temperature**2 * divergence
        if self.matches:
            pairs = ((match, own[match.student], theirs[match.of][match.teacher]) for match in self.matches)
            metrics["distance"] = sum(match.weight * _distance(match, x, y) for match, x, y in pairs)
            losses = losses + metrics["distance"]

        return summed(losses, weights, metrics, state, collections)

    def show(self, values: Mapping[str, float]) -> str:
        parts = [f"{name} {values[name]:.4f}" for name in ("divergence", "distance") if name in values]
        return ", ".join((super().show(values), *parts))


@functools.cache
def _config(teacher: Run | Pretrained, vocab_size: int) -> LanguageModelConfig:
    """Return the teacher's model. Raises ValueError unless it is a language model of the student's vocabulary."""
    config = teacher.model()
    if not isinstance(config, LanguageModelConfig):
        raise ValueError(f"the teacher {teacher} must be a language model, got a {type(config).__name__}")
    if config.vocab_size != vocab_size:
        raise ValueError(
            f"the teacher {teacher} has a vocabulary of {config.vocab_size} tokens, the student one of {vocab_size}: "
            "distillation compares distributions over the same tokens"
        )
    return config


def _site(config: LanguageModelConfig, name: str) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of an array within the model of this config, for one row of two tokens."""
    model, tokens = build(config), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    return jax.eval_shape(lambda v, t: probes.apply_and_record(model, v, t, [name])[1], variables, tokens)[name]


def _distance(match: Match, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return |x - y|^2 / mean |y|^2 at each position, (B, T), from arrays (B, T, ...)."""
    if x.shape != y.shape:
        raise ValueError(
            f"objective.matches: {match.student} of the student has shape {x.shape}, {match.teacher} of the teacher "
            f"{y.shape}; they must be equal"
        )
    if x.ndim < 3:
        raise ValueError(f"objective.matches: {match.student} has shape {x.shape}, not one vector for each token")
    axes = tuple(range(2, x.ndim))
    y = jax.lax.stop_gradient(y.astype(jnp.float32))
    mean = jnp.square(y).sum(axes).mean()
    return jnp.square(x.astype(jnp.float32) - y).sum(axes) / mean
