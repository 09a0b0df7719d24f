"""Reads a trained run from its working directory: its config, its parameters and its step."""

import dataclasses
import pathlib

from recurrax.adapters import Materialised, materialise
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.types import Params
from train.checkpoint import Checkpointer
from train.config import TrainConfig, load_config
from train.paths import local_path
from train.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that an evaluation needs."""

    path: pathlib.Path
    config: TrainConfig
    params: Params
    step: int

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(self.config.model)

    @property
    def materialised(self) -> Materialised:
        """The parameters with which the model alone computes what the run's does, and the state before a document."""
        return materialise(self.config.adapter, self.config.model, self.params)


def one_source(workdir: str | None, published: str | None, step: int | None) -> None:
    """Raise ValueError unless exactly one of `workdir` and `published` is given, and `step` only with `workdir`."""
    if (workdir is None) == (published is None):
        raise ValueError(f"give either --workdir or --pretrained, got {workdir} and {published}")
    if published is not None and step is not None:
        raise ValueError(f"--step {step} is a checkpoint of a run; a published checkpoint has no steps")


def with_local_paths(command):
    """Return the command with --pretrained as an absolute path, `~` expanded. `Workdir` does the same for --workdir."""
    if command.pretrained is None:
        return command
    return dataclasses.replace(command, pretrained=str(local_path("pretrained", command.pretrained)))


def run_config(path: str) -> TrainConfig:
    """Return the config of the run in `path`. Raises ValueError if there is none, or none of a language model."""
    workdir = Workdir(path)
    if not workdir.config_path.exists():
        raise ValueError(
            f"no run in {workdir.path}: it has no config.json. `python -m train PRESET --workdir {path}` makes one"
        )
    config = load_config(workdir.config_path)
    if not isinstance(config.model, LanguageModelConfig):
        raise ValueError(
            f"the run in {workdir.path} trains a {type(config.model).__name__}; this reads language models. The run's "
            f"held-out metrics are in {workdir.metrics_path}"
        )
    return config


def open_run(path: str, step: int | None = None) -> Run:
    """Return the run in `path` at `step`, or at its newest undamaged checkpoint. Only reads: the run may be going on.

    Raises:
      ValueError: there is no run, or no checkpoint (of that step).
      DamagedCheckpointError: no checkpoint is undamaged.
    """
    workdir, config = Workdir(path), run_config(path)
    with Checkpointer(workdir.checkpoints_path, config.checkpoint) as checkpointer:
        params = checkpointer.restore_params(step=step)
        if params is None:
            raise ValueError(f"the run in {workdir.path} has no checkpoint yet")
        return Run(workdir.path, config, params, checkpointer.restored_step)
