"""Computes the held-out loss over every byte of a split, with each document read from its start to its end."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recurrax.adapters import Adapter, adapted
from recurrax.models import BackboneConfig, build, states
from train import sharding
from train.data import Documents, HeldOutRows, evaluation_batches
from train.objectives import NextToken, Objective
from train.step import make_evaluation_step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The loss and the metrics of a model on held-out data."""

    loss: float
    """Mean loss per target: of a language model -log p in nats per token."""
    num_tokens: int
    """Number of targets."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Means of the objective's other metrics."""

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text: tokens are bytes, or the metrics say how many bytes a token has."""
        return self.loss / math.log(2) / self.metrics.get("bytes_per_token", 1)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def make_evaluator(
    model_config: BackboneConfig,
    mesh: Mesh,
    sequence_length: int,
    batch_size: int,
    objective: Objective = NextToken(),  # noqa: B008 (frozen)
    packed: bool = True,
    adapter: Adapter | None = None,
) -> Callable:
    """Return evaluate(params, data, max_batches=None, should_stop=None) -> Evaluation, or None if it was stopped.

    Documents are distributed over `batch_size` lanes. The model's state is carried along each lane and reset at
    document starts, so neither sizes nor mesh change the result beyond rounding. Sequences of a task are independent.

    Raises:
      ValueError: the lanes cannot be distributed evenly over the mesh's devices.
    """
    sharding.check_batch("evaluation.batch_size", batch_size, sequence_length, mesh)
    model, split = adapted(build(model_config), adapter), sharding.batch_sharding(mesh)
    rows = sharding.local_rows(split, batch_size)

    def programs(carries_state):
        """Return the function of the first state, and the step."""
        if not carries_state:
            return lambda: None, make_evaluation_step(objective.held_out(), model, mesh, None)
        # The sharding of the state is the same from the first batch on, so that the step is compiled once.
        split_states = state_shardings(jax.eval_shape(lambda: model.init_state(batch_size)), mesh)
        init_state = jax.jit(lambda: model.init_state(batch_size), out_shardings=split_states)
        return init_state, make_evaluation_step(objective.held_out(), model, mesh, split_states)

    programs = functools.cache(programs)

    def evaluate(
        params, data: Documents | HeldOutRows, max_batches=None, should_stop=lambda: False
    ) -> Evaluation | None:
        is_task = isinstance(data, HeldOutRows)
        carries_state = objective.carries_state and not is_task
        init_state, step = programs(carries_state)
        batches = data.batches(batch_size) if is_task else evaluation_batches(data, sequence_length, batch_size, packed)
        state, sums, counts = init_state(), [], []
        for i, batch in enumerate(batches):
            if i == max_batches:
                break
            if should_stop():
                return None
            batch = sharding.to_devices({name: value[rows] for name, value in batch.items()}, split)
            found, count, after = step(params, state, batch, i)
            state = after if carries_state else None
            sums.append(found)
            counts.append(count)
        # The sum is in float64 on the host: in float32 a sum over a whole split would lose digits.
        count = sum(float(c) for c in counts)
        means = {name: sum(float(each[name]) for each in sums) / count for name in sums[0]}
        return Evaluation(means.pop("loss"), int(count), means)

    return evaluate


def state_shardings(state, mesh: Mesh):
    """Return the shardings of a state: rows over `data` and `fsdp`, which in stacked layers come after the depth."""

    def split(path, _):
        before = [None] * states.batch_axis(jax.tree_util.keystr(path, simple=True, separator="/"))
        return NamedSharding(mesh, PartitionSpec(*before, sharding.BATCH_AXES))

    return jax.tree_util.tree_map_with_path(split, state)
