"""Provides the training loop, which can be killed and resumed at any moment."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np

from recurrax import adapters
from recurrax.models import describe
from train import processes, sharding
from train.checkpoint import Checkpointer
from train.config import TrainConfig
from train.config_json import to_json
from train.continuing import check_run, check_text
from train.data import BadRecordError, open_data, train_batches
from train.evaluate import make_evaluator
from train.metrics import Display, MetricsFile, Recorder, plot_loss, require_tensorboard, tensorboard_writer
from train.profile import Profiler
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
class Outcome:
    """The outcome of a call of `train`."""

    step: int
    interrupted: bool
    """Whether SIGTERM or Ctrl-C ended the call before its last step; the state is saved."""


def train(config: TrainConfig, path: str, *, profile: str | None = None) -> Outcome:
    """Train in the working directory `path` up to config.steps, and resume the run there if there is one.

    Raises:
      ValueError: the config does not fit the devices, the data or the run in `path`; nothing is written then.
      BlockingIOError: another run holds the lock of the working directory.
      FloatingPointError: the loss or the gradient is not finite, and that state is not saved; or the loss spikes too
        often.
      BadRecordError: the text cannot be read any more; the state is saved if this is the only process.
    """
    profiler = Profiler(profile)
    mesh = sharding.make_mesh(config.mesh)
    split = sharding.batch_sharding(mesh)
    sharding.check_batch(
        "data.batch_size / optimizer.accumulate", rows_per_slice(config), config.data.sequence_length, mesh
    )
    evaluate = make_evaluator(
        *(config.model, mesh, config.data.sequence_length, config.evaluation.batch_size, config.objective),
        packed=config.data.packed,
        adapter=config.adapter,
    )
    abstract = abstract_state(config, mesh)
    abstract_taught = abstract_frozen(config, mesh)
    train_step = make_train_step(config, abstract, mesh, abstract_taught)
    check_run(config, Workdir(path))
    if not Workdir(path).checkpoints_path.is_dir():
        config.start.arrays(
            model_declarations(config)
        )  # a start that does not fit is refused before anything is written
    if config.log.tensorboard:
        require_tensorboard()
    notes: list[str] = []
    rows, validation, identity = open_data(config.data, notes.append)
    check_text(config, Workdir(path), identity)

    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(processes.stop_signal())
        with processes.together():
            workdir = stack.enter_context(Workdir(path))
        checkpointer = stack.enter_context(Checkpointer(workdir.checkpoints_path, config.checkpoint))
        changed = check_run(config, workdir) + check_text(config, workdir, identity)
        taught = (load_frozen(config, abstract_taught),) if abstract_taught else ()
        state = checkpointer.restore(abstract)
        state = init_state(config, abstract) if state is None else state
        step = start = int(state.step)
        if processes.is_first():
            # Written in this order: if the process is killed in between, the text is not older than the config.
            write_json_atomically(workdir.data_path, identity)
            write_json_atomically(workdir.versions_path, versions())
            write_json_atomically(workdir.config_path, to_json(config))

        file = stack.enter_context(MetricsFile(workdir.metrics_path, start))
        display = stack.enter_context(Display(start, config.steps, config.objective))
        tensorboard = config.log.tensorboard and processes.is_first()
        writers = [file.append, *([tensorboard_writer(workdir.path)] if tensorboard else [])]

        def complete_checkpoints() -> tuple[int, ...]:
            checkpointer.wait()  # a checkpoint may still be in progress
            return checkpointer.steps

        recorder = Recorder(config, writers, display, complete_checkpoints)
        for line in introduction(config, workdir, mesh, abstract, rows, notes, start, changed):
            display.say(line)

        def held_out() -> dict[str, float]:
            result = evaluate(state.params, validation, config.evaluation.max_batches, should_stop)
            if result is None:
                return {}
            means = {"loss": result.loss, **result.metrics}
            display.say(f"step {step:>6}  held out {config.objective.show_held_out(means)}")
            return {f"validation_{name}": value for name, value in means.items()}

        if owes_evaluation(config, file.rows, step) and (found := held_out()):
            file.amend({"step": step, **found})

        local = sharding.local_rows(split, config.data.batch_size)

        def batches_from(state):
            return train_batches(rows, config.data, config.seed, int(state.batch), local)

        batches = batches_from(state)
        stack.callback(lambda: batches.close())  # the iterator at the time of the exit: it is replaced after a spike
        watch = SpikeWatch(config.spike)
        stack.callback(profiler.close, workdir.path, display.say)
        profiler(step, None, workdir.path, display.say)
        unreadable = None
        try:
            while step < config.steps and not should_stop():
                state, metrics = train_step(state, sharding.to_devices(next(batches), split), *taught)
                step += 1
                # Settles the previous step: its metrics are available, and the device is busy with this step.
                recorder.step(step, metrics)
                if spike := watch(metrics):
                    state = before_spike(config, checkpointer, abstract, state)
                    display.say(
                        f"step {step - 1:>6}  {spike}; back to step {int(state.step)}, on with batch {int(state.batch)}"
                    )
                    step = int(state.step)
                    file.go_back(step)
                    recorder.go_back()
                    batches.close()
                    batches = batches_from(state)
                    continue
                profiler(step, metrics, workdir.path, display.say)
                saves = due(step, config.checkpoint.every, config)
                evaluates = due(step, config.evaluation.every, config)
                if saves or evaluates:
                    with recorder.pause() as settle:
                        found = held_out() if evaluates else {}
                        settle(validation=found)
                        if saves:
                            checkpointer.save(step, state, validation_loss=found.get("validation_loss"))
        except BadRecordError as error:
            if jax.process_count() > 1:  # the other processes are in the middle of a step and would not save
                raise
            unreadable = error
        recorder.settle()
        if step:
            checkpointer.save(step, state, wait=True)
            if config.adapter is not None:
                own = processes.gathered(state.params[adapters.ADAPTER])
                if processes.is_first():
                    adapters.save(workdir.adapter_path, config.adapter, own)
        saved = f"step {step} is saved in {workdir.checkpoints_path}" if step else "there was no step to save yet"
        if unreadable is not None:
            raise BadRecordError(f"{unreadable}; {saved}") from unreadable
        if step < config.steps:
            display.say(f"Stopped by a signal: {saved}")
        elif file.rows and processes.is_first():
            plot_loss(file.rows, workdir.loss_png_path, workdir.path.name, config.objective)
    return Outcome(step, interrupted=step < config.steps)


def before_spike(
    config: TrainConfig, checkpointer: Checkpointer, abstract: TrainState, state: TrainState
) -> TrainState:
    """Restore an earlier state that continues with the batch after the spike; `state` is one step past the spike.

    Checkpoints after the restored one are deleted.
    """
    restored = checkpointer.go_back(abstract, to=int(state.step) - 1 - config.spike.rewind)
    if restored is None:
        restored = init_state(config, abstract)
    return restored.replace(batch=jax.device_put(np.int32(int(state.batch) - 1), abstract.batch.sharding))


def due(step: int, every: int, config: TrainConfig) -> bool:
    """Return whether `step` is a multiple of `every` or the last step."""
    return step % every == 0 or step == config.steps


def rows_per_slice(config: TrainConfig) -> int:
    return config.data.batch_size // config.optimizer.accumulate


def owes_evaluation(config: TrainConfig, rows: list[dict], step: int) -> bool:
    """Return whether the run was stopped between this step and its evaluation."""
    was_due = step > 0 and due(step, config.evaluation.every, config)
    return was_due and bool(rows) and rows[-1]["step"] == step and "validation_loss" not in rows[-1]


def introduction(config, workdir, mesh, abstract, rows, notes, start, changed) -> Iterator[str]:
    """Yield the lines that are printed before training: size, mesh, data, and changes of the config."""
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    parameters = describe(abstract.params).splitlines()[-1].split(" parameters")[0]
    yield f"{parameters} parameters on {axes} ({mesh.devices.flat[0].device_kind}); {rows}"
    yield from dict.fromkeys(notes)  # both splits report the same notes
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
