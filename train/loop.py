"""Provides the training loop, which can be killed and resumed at any moment."""

import dataclasses

import jax

from train import processes
from train.config import TrainConfig
from train.data import BadRecordError
from train.profile import Profiler
from train.session import Session, prepare


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
    profiler, prepared = Profiler(profile), prepare(config, path)
    with processes.stop_signal() as should_stop, Session(prepared, path, should_stop) as run:
        run.make_up()
        unreadable = None
        with profiler.into(run.workdir.path, run.step, run.say):
            try:
                while run.step < config.steps and not should_stop():
                    if run.advance():
                        profiler.after(run.step, run.metrics)
                        run.look()
            except BadRecordError as error:
                if jax.process_count() > 1:  # the other processes are in the middle of a step and would not save
                    raise
                unreadable = error
            saved = run.finish()
        if unreadable is not None:
            raise BadRecordError(f"{unreadable}; {saved}") from unreadable
        if run.step < config.steps:
            run.say(f"Stopped by a signal: {saved}")
        else:
            run.plot()
    return Outcome(run.step, interrupted=run.step < config.steps)
