"""Trains one model and measures it."""

import dataclasses
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

from eval.compare import models
from eval.run import open_run
from recurrax.models import LanguageModel
from train import loop
from train.config import TrainConfig
from train.metrics import read_metrics

DECODED = 256
"""Tokens of a timed call."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    parameters: int
    state_bytes: int
    """Of one sequence."""
    training_tokens_per_second: float
    """The median over the run's logged intervals."""
    decode_tokens_per_second: float
    """Of one sequence, token by token."""
    bits_per_byte: float
    """On held-out text, after the last step."""
    seconds: float
    """Of training from start to end: compilation, evaluation and checkpoints included."""


def measure(name: str, config: TrainConfig, folder: pathlib.Path) -> Result:
    """Trains in `folder` up to config.steps, from where an interrupted run there stands, and measures.

    Raises:
      FloatingPointError: the loss or the gradient was not finite.
      KeyboardInterrupt: a signal stopped the training; the run is saved.
    """
    spent, start = folder / "seconds", time.monotonic()
    before = float(spent.read_text()) if spent.exists() else 0.0
    outcome = loop.train(config, str(folder))
    seconds = before + time.monotonic() - start
    spent.write_text(str(seconds))
    if outcome.interrupted:
        raise KeyboardInterrupt
    rows = read_metrics(folder / "metrics.jsonl")
    return Result(
        name=name,
        parameters=models.count(config.model),
        state_bytes=models.state_bytes(config.model),
        # The first interval has the compilation in it.
        training_tokens_per_second=statistics.median(row["tokens_per_second"] for row in rows[1:] or rows),
        decode_tokens_per_second=decode_speed(LanguageModel(config.model), open_run(str(folder)).params),
        bits_per_byte=rows[-1]["validation_loss"] / math.log(2),
        seconds=seconds,
    )


def decode_speed(model: LanguageModel, params, repeats: int = 5) -> float:
    """Tokens per second of one sequence that goes on with the likeliest token each time; the median of some calls."""

    @jax.jit
    def decode(token, state):
        def step(carry, _):
            token, state = carry
            logits, state = model.apply({"params": params}, token, state)
            return (jnp.argmax(logits, axis=-1).astype(token.dtype), state), None

        carry, _ = lax.scan(step, (token, state), None, length=DECODED)
        return carry

    carry = jax.block_until_ready(decode(jnp.zeros((1, 1), jnp.int32), model.init_state(1)))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        carry = jax.block_until_ready(decode(*carry))
        seconds.append(time.perf_counter() - start)
    return DECODED / statistics.median(seconds)
