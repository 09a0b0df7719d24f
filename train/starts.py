"""Provides starts: where the parameters before the first step come from."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from recurrax.parameters import Parameter, flat
from train import patterns
from train.checkpoint import CheckpointConfig, Checkpointer
from train.checkpoint_check import misfits
from train.workdir import Workdir

__all__ = ["Random", "Run", "Start"]


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
class Run(Start):
    """The parameters of a checkpoint of another run."""

    workdir: str
    """Directory of the other run."""
    step: int | None = None
    """Step of the checkpoint; None: the newest undamaged one."""
    fresh: tuple[str, ...] = ()
    """Roles, or patterns of paths, of parameters that start at random instead, such as "head" or "embedding"."""

    def arrays(self, declared):
        """Return the checkpoint's parameters that are not fresh.

        Raises:
          ValueError: there is no such checkpoint, a pattern of `fresh` matches nothing, or the other parameters are not
            those of this model; the message lists all differences.
          DamagedCheckpointError: no checkpoint is undamaged.
        """
        fresh = patterns.select("start.fresh", self.fresh, declared)
        path = Workdir(self.workdir).checkpoints_path
        if not path.is_dir():
            raise ValueError(f"start.workdir {self.workdir} is not the directory of a run: it has no checkpoints")
        with Checkpointer(path, CheckpointConfig()) as checkpointer:
            params = checkpointer.restore_params(step=self.step)
        if params is None:
            raise ValueError(f"start.workdir {self.workdir} has no checkpoint yet")
        stored = {path: np.asarray(leaf) for path, leaf in flat(params).items()}
        wanted = {path: parameter.shape for path, parameter in declared.items() if path not in fresh}
        kept = {path: array for path, array in stored.items() if path not in fresh}
        differences = misfits({p: str(a.shape) for p, a in kept.items()}, {p: str(s) for p, s in wanted.items()})
        if differences:
            listing = "\n  ".join(differences)
            raise ValueError(
                f"the parameters in {self.workdir} are not those of this model; start.fresh names parameters that "
                f"start at random:\n  {listing}"
            )
        return kept

    def __str__(self):
        step = "the newest checkpoint" if self.step is None else f"step {self.step}"
        return f"{step} of {self.workdir}" + f", with fresh {', '.join(self.fresh)}" * bool(self.fresh)
