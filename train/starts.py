"""Provides starts: where the parameters before the first step come from."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from recurrax import patterns, pretrained
from recurrax.adapters import merge
from recurrax.models import BackboneConfig
from recurrax.parameters import Parameter, flat
from train.checkpoint import CheckpointConfig, Checkpointer
from train.checkpoint_check import misfits
from train.config_json import from_json
from train.paths import local_path
from train.workdir import Workdir, read_json

__all__ = ["Pretrained", "Random", "Run", "Start", "stored_in"]


@dataclasses.dataclass(frozen=True)
class Start:
    """The source of the parameters before the first step."""

    def arrays(self, declared: Mapping[str, Parameter]) -> dict[str, np.ndarray]:
        """Return the parameters that do not start at random, by their paths."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Random(Start):
    """All parameters are drawn from the initializers that they declare."""

    def arrays(self, declared):
        return {}

    def __str__(self):
        return "random parameters"


@dataclasses.dataclass(frozen=True)
class Stored(Start):
    """Parameters in files; those that are fresh start at random."""

    fresh: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """Roles, or patterns of paths, of parameters that start at random instead, such as "head" or "embedding"."""

    @property
    def place(self) -> str:
        """The directory of the files, for messages."""
        raise NotImplementedError

    def tokenizer(self) -> str | None:
        """Return the directory of the tokenizer whose tokens the model reads; None: it reads bytes."""
        raise NotImplementedError

    def stored(self) -> Mapping[str, np.ndarray]:
        """Return all parameters in the files, by path."""
        raise NotImplementedError

    def model(self) -> BackboneConfig:
        """Return the config of the model to which the parameters belong.

        Raises:
          ValueError: the files cannot be read.
        """
        raise NotImplementedError

    def arrays(self, declared):
        """Return the stored parameters that are not fresh.

        Raises:
          ValueError: the files cannot be read, a pattern of `fresh` matches nothing, or the other parameters are not
            those of this model; the message lists all differences.
        """
        fresh = patterns.select("start.fresh", self.fresh, declared)
        wanted = {path: str(parameter.shape) for path, parameter in declared.items() if path not in fresh}
        kept = {path: array for path, array in self.stored().items() if path not in fresh}
        differences = misfits({path: str(array.shape) for path, array in kept.items()}, wanted)
        if differences:
            listing = "\n  ".join(differences)
            raise ValueError(
                f"the parameters in {self.place} are not those of this model; start.fresh names parameters that "
                f"start at random:\n  {listing}"
            )
        return kept

    def __str__(self):
        return self.place + f", with fresh {', '.join(self.fresh)}" * bool(self.fresh)


@dataclasses.dataclass(frozen=True)
class Run(Stored):
    """The parameters of a checkpoint of another run."""

    workdir: str
    """Directory of the other run."""
    step: int | None = None
    """Step of the checkpoint; None: the newest undamaged one."""

    @property
    def place(self) -> str:
        return f"{'the newest checkpoint' if self.step is None else f'step {self.step}'} of {self.workdir}"

    def model(self):
        return from_json(self._config()["model"])

    def tokenizer(self):
        return self._config()["data"].get("tokenizer")

    def _config(self) -> dict:
        path = Workdir(self.workdir).config_path
        if not path.is_file():
            raise ValueError(f"{self.workdir} is not the directory of a run: it has no config.json")
        return read_json(path)

    def parameters(self) -> dict:
        """Return the checkpoint's parameters as they are, those of an adapter among them.

        Raises:
          ValueError: there is no such checkpoint.
          DamagedCheckpointError: no checkpoint is undamaged.
        """
        path = Workdir(self.workdir).checkpoints_path
        if not path.is_dir():
            raise ValueError(f"start.workdir {self.workdir} is not the directory of a run: it has no checkpoints")
        with Checkpointer(path, CheckpointConfig()) as checkpointer:
            params = checkpointer.restore_params(step=self.step)
        if params is None:
            raise ValueError(f"start.workdir {self.workdir} has no checkpoint yet")
        return params

    def stored(self):
        """Return the parameters with which the model alone computes what the run's does.

        Raises:
          ValueError: as `parameters`; or the run's adapter changes more than parameters.
          DamagedCheckpointError: no checkpoint is undamaged.
        """
        params, config = self.parameters(), self._config()
        params = merge(from_json(config.get("adapter")), from_json(config["model"]), params)
        return {path: np.asarray(leaf) for path, leaf in flat(params).items()}


@dataclasses.dataclass(frozen=True)
class Pretrained(Stored):
    """The parameters of a published checkpoint, of any family in `recurrax.pretrained`."""

    directory: str
    """Directory with config.json and safetensors files."""

    @property
    def place(self) -> str:
        return self.directory

    def model(self):
        return pretrained.read_config(local_path("start.directory", self.directory))

    def tokenizer(self):
        return self.directory

    def stored(self):
        return pretrained.read_arrays(local_path("start.directory", self.directory))


def stored_in(directory: str) -> Run | Pretrained:
    """Return the parameters of the run or of the published checkpoint in a directory."""
    path = local_path("the preset's directory", directory)
    return Run(str(path)) if Workdir(path).checkpoints_path.is_dir() else Pretrained(str(path))
