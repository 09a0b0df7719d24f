"""Provides what a call of `train` holds while it runs: the state, where it is written, and what is done with it."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from recurrax import adapters
from recurrax.models import describe
from train import processes, sharding
from train.checkpoint import Checkpointer
from train.config import TrainConfig
from train.config_json import to_json
from train.continuing import check_run, check_text
from train.data import open_data, train_batches
from train.evaluate import make_evaluator
from train.metrics import Display, MetricsFile, Recorder, plot_loss, require_tensorboard, tensorboard_writer
from train.spikes import SpikeWatch
from train.starts import Random
from train.state import (
    TrainState,
    abstract_frozen,
    abstract_state,
    init_state,
    load_frozen,
    model_declarations,
    trained_declarations,
)
from train.step import make_train_step
from train.workdir import Workdir, versions, write_json_atomically


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked; nothing is compiled or written yet."""

    config: TrainConfig
    mesh: Mesh
    abstract: TrainState
    frozen: dict
    """Shapes of what the objective reads beside the model."""
    train_step: Callable
    evaluate: Callable
    rows: object
    """The rows of training."""
    validation: object
    """The held-out data."""
    identity: dict
    """What identifies the data."""
    notes: list[str]
    """What was said while the data were opened."""


def prepare(config: TrainConfig, path: str) -> Prepared:
    """Check all that can be checked before anything is compiled or written.

    Raises:
      ValueError: the config does not fit the devices, the data, its start or the run in `path`.
    """
    mesh = sharding.make_mesh(config.mesh)
    part = config.data.batch_size // config.optimizer.accumulate
    sharding.check_batch("data.batch_size / optimizer.accumulate", part, config.data.sequence_length, mesh)
    evaluate = make_evaluator(
        *(config.model, mesh, config.data.sequence_length, config.evaluation.batch_size, config.objective),
        packed=config.data.packed,
        adapter=config.adapter,
    )
    abstract, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    train_step = make_train_step(config, abstract, mesh, frozen)
    check_run(config, Workdir(path))
    if not Workdir(path).checkpoints_path.is_dir():
        config.start.arrays(model_declarations(config))
    if config.log.tensorboard:
        require_tensorboard()
    notes: list[str] = []
    rows, validation, identity = open_data(config.data, notes.append)
    check_text(config, Workdir(path), identity)
    return Prepared(config, mesh, abstract, frozen, train_step, evaluate, rows, validation, identity, notes)


class Session:
    """A run in progress, in a working directory that it locks; a context manager."""

    def __init__(self, prepared: Prepared, path: str, should_stop: Callable[[], bool]):
        self.config, self._prepared = prepared.config, prepared
        self._should_stop = should_stop
        self.workdir = Workdir(path)
        self._split = sharding.batch_sharding(prepared.mesh)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        """Lock the directory, read the newest checkpoint or create the first state, and say what is trained.

        Raises:
          BlockingIOError: another run holds the lock.
          ValueError: the run in the directory is another one.
        """
        with contextlib.ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def _enter(self, stack: contextlib.ExitStack) -> None:
        config, prepared = self.config, self._prepared
        with processes.together():
            workdir = stack.enter_context(self.workdir)
        self._checkpointer = stack.enter_context(
            Checkpointer(workdir.checkpoints_path, config.checkpoint, rising=config.objective.rising)
        )
        changed = check_run(config, workdir) + check_text(config, workdir, prepared.identity)
        frozen = (load_frozen(config, prepared.frozen),) if prepared.frozen else ()
        self._train_step = lambda state, batch: prepared.train_step(state, batch, *frozen)
        state = self._checkpointer.restore(prepared.abstract)
        self.state = init_state(config, prepared.abstract) if state is None else state
        self.step = start = int(self.state.step)
        self.metrics: dict[str, jax.Array] = {}
        if processes.is_first():
            # Written in this order: if the process is killed in between, the text is not older than the config.
            write_json_atomically(workdir.data_path, prepared.identity)
            write_json_atomically(workdir.versions_path, versions())
            write_json_atomically(workdir.config_path, to_json(config))
        self._file = stack.enter_context(MetricsFile(workdir.metrics_path, start))
        display = stack.enter_context(Display(start, config.steps, config.objective))
        self.say = display.say
        writers = [self._file.append]
        if config.log.tensorboard and processes.is_first():
            writers.append(tensorboard_writer(workdir.path))
        self._recorder = Recorder(config, writers, display, self._complete_checkpoints)
        self._watch = SpikeWatch(config.spike)
        for line in introduction(prepared, workdir, start, changed):
            self.say(line)
        self._restart_batches()
        stack.callback(lambda: self._batches.close())  # those at the time of the exit: a rewind replaces them

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def advance(self) -> bool:
        """Train one step, whose `metrics` may still be being computed; or go back after a spike, and return False.

        Meanwhile the metrics of the step before are settled: they are there, and the device is busy. So the loss of a
        step is known one step late, here and nowhere else.

        Raises:
          FloatingPointError: the loss or the gradient of the step before is not finite, or spikes too often.
          BadRecordError: the text cannot be read any more.
        """
        batch = sharding.to_devices(next(self._batches), self._split)
        self.state, self.metrics = self._train_step(self.state, batch)
        self.step += 1
        before = self._recorder.step(self.step, self.metrics)
        spike = self._watch(before)
        if spike:
            self._rewind(spike)
        return not spike

    def _rewind(self, spike: str) -> None:
        """Go back to an earlier state, and on with the batch after the spike; the state is one step past it.

        Checkpoints after the restored one are deleted.
        """
        config, abstract, state = self.config, self._prepared.abstract, self.state
        restored = self._checkpointer.go_back(abstract, to=int(state.step) - 1 - config.spike.rewind)
        if restored is None:
            restored = init_state(config, abstract)
        next_batch = jax.device_put(np.int32(int(state.batch) - 1), abstract.batch.sharding)
        self.state = restored.replace(batch=next_batch)
        before, self.step = self.step - 1, int(restored.step)
        self.say(f"step {before:>6}  {spike}; back to step {self.step}, on with batch {int(next_batch)}")
        self._file.go_back(self.step)
        self._recorder.go_back()
        self._batches.close()
        self._restart_batches()

    def look(self) -> None:
        """Evaluate and save, whatever is due at this step."""
        saves, evaluates = (self._due(part.every) for part in (self.config.checkpoint, self.config.evaluation))
        if not (saves or evaluates):
            return
        with self._recorder.pause() as settle:
            found = self._held_out() if evaluates else {}
            settle(validation=as_row(found))
            if saves:
                self._checkpointer.save(self.step, self.state, held_out=found)

    def make_up(self) -> None:
        """Evaluate if an earlier call was stopped between this step and its evaluation."""
        rows = self._file.rows
        owed = self.step > 0 and self._due(self.config.evaluation.every) and bool(rows)
        owed = owed and rows[-1]["step"] == self.step and "validation_loss" not in rows[-1]
        if owed and (found := self._held_out()):
            self._file.amend({"step": self.step, **as_row(found)})

    def finish(self) -> str:
        """Settle the last step, save the state, and return a sentence that says where it is."""
        self._recorder.settle()
        if not self.step:
            return "there was no step to save yet"
        self._checkpointer.save(self.step, self.state, wait=True)
        if self.config.adapter is not None:
            own = processes.gathered(self.state.params[adapters.ADAPTER])
            if processes.is_first():
                adapters.save(self.workdir.adapter_path, self.config.adapter, own)
        return f"step {self.step} is saved in {self.workdir.checkpoints_path}"

    def plot(self) -> None:
        """Draw the losses of all steps."""
        if self._file.rows and processes.is_first():
            plot_loss(self._file.rows, self.workdir.loss_png_path, self.workdir.path.name, self.config.objective)

    def _held_out(self) -> dict[str, float]:
        """Return the means over held-out data by metric; none if the run is stopped meanwhile."""
        prepared, limit = self._prepared, self.config.evaluation.max_batches
        result = prepared.evaluate(self.state.params, prepared.validation, limit, self._should_stop)
        if result is None:
            return {}
        means = {"loss": result.loss, **result.metrics}
        self.say(f"step {self.step:>6}  held out {self.config.objective.show_held_out(means)}")
        return means

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _restart_batches(self) -> None:
        """Begin with the batch that the state names."""
        config, prepared = self.config, self._prepared
        local = sharding.local_rows(self._split, config.data.batch_size)
        self._batches = train_batches(prepared.rows, config.data, config.seed, int(self.state.batch), local)

    def _complete_checkpoints(self) -> tuple[int, ...]:
        self._checkpointer.wait()  # one may still be being written
        return self._checkpointer.steps


def as_row(means: Mapping[str, float]) -> dict[str, float]:
    """Return held-out means by their names in metrics.jsonl."""
    return {f"validation_{name}": value for name, value in means.items()}


def introduction(prepared: Prepared, workdir: Workdir, start: int, changed: list[str]) -> Iterator[str]:
    """Yield the lines that are printed before training: size, mesh, data, and changes of the config."""
    config, mesh = prepared.config, prepared.mesh
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    parameters = describe(prepared.abstract.params).splitlines()[-1].split(" parameters")[0]
    yield f"{parameters} parameters on {axes} ({mesh.devices.flat[0].device_kind}); {prepared.rows}"
    yield from dict.fromkeys(prepared.notes)  # both splits report the same notes
    for line in changed:
        yield f"Changed since this run was started: {line}"
    if config.trained != ("*",):
        trained = sum(math.prod(parameter.shape) for parameter in trained_declarations(config).values())
        yield f"{trained:,} parameters are trained: {', '.join(config.trained)}"
    if not start and config.start != Random():
        yield f"Starting from {config.start}"
    if start:
        yield f"Going on from step {start} in {workdir.path}"
    if start >= config.steps:
        yield f"Nothing to do: the run is at step {start} and --steps is {config.steps}"
    elif (last := config.optimizer.schedule.last_step) is not None and config.steps > last:
        yield f"From step {last} on the learning rate stays at its last value, as --optimizer.schedule says"
