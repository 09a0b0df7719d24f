"""Computes the held-out loss over every byte of a split, with each document read from its start to its end."""

import dataclasses
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recurrax.models import LanguageModel, LanguageModelConfig
from train import sharding
from train.data import Documents, evaluation_batches
from train.step import make_evaluation_step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The loss of a model on a text."""

    loss: float
    """Mean -log p in nats per token."""
    num_tokens: int
    """Number of predicted tokens."""

    @property
    def bits_per_byte(self) -> float:
        """Bits per token, thus per byte if tokens are bytes."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def make_evaluator(model_config: LanguageModelConfig, mesh: Mesh, sequence_length: int, batch_size: int) -> Callable:
    """Return evaluate(params, documents, max_batches=None, should_stop=None) -> Evaluation, or None if it was stopped.

    The documents are distributed over `batch_size` lanes. The model's state is carried along each lane and reset at
    document starts, so neither sizes nor mesh change the result beyond rounding.

    Raises:
      ValueError: the lanes cannot be distributed evenly over the mesh's devices.
    """
    sharding.check_batch("evaluation.batch_size", batch_size, sequence_length, mesh)
    model = LanguageModel(model_config)
    split = sharding.batch_sharding(mesh)
    rows = sharding.local_rows(split, batch_size)
    # The sharding of the state is the same from the first batch on, so that the step is compiled once.
    states = state_shardings(jax.eval_shape(lambda: model.init_state(batch_size)), mesh)
    init_state = jax.jit(lambda: model.init_state(batch_size), out_shardings=states)
    step = make_evaluation_step(model, mesh, states)

    def evaluate(params, documents: Documents, max_batches=None, should_stop=lambda: False) -> Evaluation | None:
        state, sums, counts = init_state(), [], []
        batches = evaluation_batches(documents, sequence_length, batch_size)
        for i, batch in enumerate(batches):
            if i == max_batches:
                break
            if should_stop():
                return None
            batch = sharding.to_devices({name: value[rows] for name, value in batch.items()}, split)
            total, count, state = step(params, state, batch)
            sums.append(total)
            counts.append(count)
        # The sum is in float64 on the host: in float32 a sum over a whole split would lose digits.
        count = sum(float(c) for c in counts)
        return Evaluation(sum(float(s) for s in sums) / count, int(count))

    return evaluate


def state_shardings(state, mesh: Mesh):
    """Return the shardings of a state: rows over `data` and `fsdp`, which in stacked layers come after the depth."""

    def split(part, *before):
        spec = PartitionSpec(*before, sharding.BATCH_AXES)
        return jax.tree.map(lambda _: NamedSharding(mesh, spec), part)

    return {name: split(part, None) if name == "groups" else split(part) for name, part in state.items()}
