"""Save and restore checkpoints: written during training, verified before use, never incomplete under a good name.

    checkpoints/200/           complete: orbax's files, record.json (the leaves, the validation loss), SHA256SUMS
    checkpoints/writing-400*   being written; without value if no run is writing it
    checkpoints/deleting-100   being deleted
    checkpoints/corrupt-300-1  found damaged at a restart and moved aside; never deleted by this module

One rename, made after the last byte is on the disk, creates a checkpoint, and another removes it. So a directory that
is named by a number is complete, whenever and however the process died. This is also why orbax's own checkpoint
manager is not used: a kill between its commit and our checksums would leave a checkpoint that cannot be verified, and
it deletes in place, so that a kill leaves half a checkpoint under a good name.

All processes call every method. Process 0 alone checks, renames and deletes; the others follow.
"""

import concurrent.futures
import dataclasses
import math
import operator
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping

import jax
from orbax.checkpoint import v1 as ocp

from train import checkpoint_check
from train.processes import is_first, on_any


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which of them are kept."""

    every: int = 200
    """Number of steps between checkpoints."""
    keep: int = 3
    """Number of the newest checkpoints that are kept."""
    keep_best: bool = True
    """Whether the checkpoint that is best on held-out data is kept too."""
    best: str = "loss"
    """Held-out metric that says which one is best: loss, or accuracy where the objective has it."""

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoint.{name} is {getattr(self, name)}; it must be at least 1")


class DamagedCheckpointError(RuntimeError):
    """No checkpoint can be read, or the requested one cannot."""


class Checkpointer:
    """Save and restore the training state in one directory; a context manager that ends with `close`.

    Nothing is changed before the first `save`, or a `restore` that finds damage, so a `Checkpointer` can read the
    directory of a run in progress. Only the holder of the working directory's lock may save or `restore`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        config: CheckpointConfig,
        log: Callable[[str], object] = print,
        rising: Collection[str] = (),
    ):
        """`rising` are the metrics of which the largest value is the best."""
        self._rising = rising
        self._directory = pathlib.Path(os.path.abspath(directory))  # orbax fails late on a relative path
        self._config = config
        self._log = log
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._current: int | None = None  # the step that this object saved or restored last
        self.restored_step: int | None = None  # the step that the last `restore` or `restore_params` read

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the complete checkpoints on disk, in ascending order."""
        if not self._directory.is_dir():
            return ()
        return tuple(sorted(int(entry.name) for entry in self._directory.iterdir() if entry.name.isdecimal()))

    def save(self, step: int, state, *, held_out: Mapping[str, float] | None = None, wait: bool = False) -> None:
        """Write `state`, a pytree of JAX arrays, as the checkpoint of `step`, with its means over held-out data.

        Returns as soon as the arrays are copied, so that the caller may donate them. The rest happens in the
        background, and the next `save`, `wait`, `restore` or `close` raises its errors. With `wait`, returns when the
        checkpoint is on the disk. Saving the step that was just saved or restored does nothing: the last save of a loop
        may coincide with a regular one.

        Raises:
          ValueError: the directory has a checkpoint of this or a later step, which a restart would prefer to this one.
          RuntimeError: an earlier save failed.
        """
        self.wait()
        step = operator.index(step)
        if step == self._current:
            return
        newest = max(self.steps, default=-1)
        if step <= newest:
            raise ValueError(
                f"cannot save step {step}: {self._directory} has checkpoints up to step {newest}, and a restart would "
                "continue from there. Move the later ones away to train on from an earlier step."
            )
        self._as_process_0(self._remove_leftovers)
        # A value that is not a number is left out: such a checkpoint is never the best.
        found = {name: float(value) for name, value in (held_out or {}).items() if math.isfinite(value)}
        record = {"step": step, "held_out": found, "leaves": checkpoint_check.describe(state)}
        response = ocp.save_async(self._writing(step), state)
        self._pending = step, self._thread.submit(self._commit, response, record)
        self._current = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when the save in progress, if any, is on the disk. Raises RuntimeError if it failed."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        error = future.exception()
        if on_any(error is not None):
            self._current = None
            there = ", ".join(map(str, self.steps)) or "none"
            raise RuntimeError(
                f"the checkpoint of step {step} could not be written to {self._directory}: "
                f"{error or 'another process failed'}. Complete checkpoints there: {there}"
            ) from error

    def close(self) -> None:
        """Wait for the save in progress. Raises RuntimeError if it failed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def restore(self, abstract_state, *, step: int | None = None):
        """Return the state of `step`, or of the newest undamaged checkpoint; None if there is no checkpoint.

        `abstract_state` is a pytree of `jax.ShapeDtypeStruct` with shardings. The result has its structure and its
        shardings, whatever mesh the checkpoint was written on. Damaged checkpoints newer than the returned one are
        reported through `log` and moved aside.

        Raises:
          ValueError: there is no checkpoint of `step`, or it does not fit (one line per leaf); the disk is unchanged.
          DamagedCheckpointError: all checkpoints, or that of `step`, are damaged; the disk is unchanged.
        """
        return self._restore(step, abstract_state, self._load_state, move_aside=True)

    def go_back(self, abstract_state, *, to: int):
        """Delete the checkpoints after step `to`, and `restore` the newest undamaged one of the others."""
        self.wait()
        self._as_process_0(lambda: self._delete(step for step in reversed(self.steps) if step > to))
        self._current = None
        return self.restore(abstract_state)

    def restore_params(self, abstract_params=None, *, step: int | None = None):
        """Restore the parameters alone, like `restore` but without any change on disk.

        Without `abstract_params` the result is nested dicts of arrays on this process's first device, with the saved
        shapes and dtypes.
        """
        return self._restore(step, abstract_params, self._load_params, move_aside=False)

    def _restore(self, step: int | None, abstract, load: Callable, *, move_aside: bool):
        self.wait()
        chosen, damaged = self._choose(step)
        if chosen is None:
            return None
        restored = load(self._directory / str(chosen), abstract)
        if move_aside:
            self._as_process_0(lambda: self._move_aside(damaged))
        self._current = self.restored_step = chosen
        return restored

    def _choose(self, step: int | None) -> tuple[int | None, list[int]]:
        """Return the step of the checkpoint to read, and the newer, damaged ones that were skipped."""
        steps = self.steps
        if step is not None and step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"no checkpoint of step {step} in {self._directory}; there are: {there}")
        damaged = {}
        for candidate in reversed(steps) if step is None else (step,):
            path = self._directory / str(candidate)
            problems = checkpoint_check.damage(path) if is_first() else []
            if not on_any(bool(problems)):
                return candidate, list(damaged)
            damaged[candidate] = "; ".join(problems) or "see the message of process 0"
            self._log(f"The checkpoint of step {candidate} is damaged and cannot be used: {damaged[candidate]}")
        if damaged:
            listing = "\n".join(f"  {self._directory / str(step)}: {why}" for step, why in damaged.items())
            raise DamagedCheckpointError(f"no usable checkpoint; nothing was changed on disk. Damaged:\n{listing}")
        return None, []

    def _load_state(self, path: pathlib.Path, abstract_state):
        return _load(path, abstract_state)

    def _load_params(self, path: pathlib.Path, abstract_params):
        if abstract_params is None:
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract_params = jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
                ocp.metadata(path).metadata["params"],
            )
        return _load(path, {"params": abstract_params}, "params/")["params"]

    def _commit(self, response, record: dict) -> None:
        """End a save, in the background: when all processes have written, process 0 makes it a checkpoint."""
        response.result()
        if not is_first():
            return
        written = self._writing(record["step"])
        checkpoint_check.seal(written, record)
        os.rename(written, self._directory / str(record["step"]))
        checkpoint_check.sync_directory(self._directory)
        self._prune()

    def _prune(self) -> None:
        found = {}
        for step in self.steps:
            record = checkpoint_check.read_record(self._directory / str(step))
            if record is None:
                self._log(f"The checkpoint of step {step} is damaged; it is left alone and not counted")
            else:
                earlier = record.get("validation_loss")  # of a version before there were other metrics
                means = record.get("held_out", {} if earlier is None else {"loss": earlier})
                found[step] = means.get(self._config.best)
        self._delete(found.keys() - steps_to_keep(found, self._config, rises=self._config.best in self._rising))

    def _delete(self, steps: Iterable[int]) -> None:
        for step in steps:
            leaving = self._directory / f"deleting-{step}"
            os.rename(self._directory / str(step), leaving)
            shutil.rmtree(leaving)

    def _remove_leftovers(self) -> None:
        """Remove what a killed or failed save or deletion has left. No save may be in progress."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.glob("deleting-*"):
            shutil.rmtree(path)
        for path in self._directory.glob("writing-*"):
            # A failed save may have threads that still write: they must not find a directory that is being emptied.
            leaving = path.with_name(f"deleting-{path.name}")
            os.rename(path, leaving)
            shutil.rmtree(leaving)

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            number = 1
            while (target := self._directory / f"corrupt-{step}-{number}").exists():
                number += 1
            os.rename(self._directory / str(step), target)
            self._log(f"Moved the damaged checkpoint of step {step} to {target}")
        checkpoint_check.sync_directory(self._directory)

    def _writing(self, step: int) -> pathlib.Path:
        return self._directory / f"writing-{step}"

    def _as_process_0(self, action: Callable[[], None]) -> None:
        """Run `action` on process 0 while the others wait; if it fails there, all processes raise."""
        error = None
        if is_first():
            try:
                action()
            except OSError as problem:
                error = problem
        if on_any(error is not None):
            raise error or RuntimeError(f"process 0 could not prepare {self._directory}; see its message")


def steps_to_keep(found: Mapping[int, float | None], config: CheckpointConfig, *, rises: bool = False) -> set[int]:
    """Return the newest `keep` steps and, with `keep_best`, that of the lowest value, or of the highest if it `rises`.

    None, a step that was not evaluated, is ignored.
    """
    newest = set(sorted(found)[-config.keep :])
    measured = [(-value if rises else value, -step) for step, value in found.items() if value is not None]
    if config.keep_best and measured:
        newest.add(-min(measured)[1])  # of equal values the newest
    return newest


def _load(path: pathlib.Path, abstract, part: str = ""):
    """Return the leaves of `abstract`, which must be all of the checkpoint's under `part` apart from retired ones."""
    _check_shardings(abstract)
    expected, leaves = checkpoint_check.describe(abstract), checkpoint_check.read_record(path)["leaves"]
    stored = {name: leaf for name, leaf in leaves.items() if name.startswith(part)}
    lines = checkpoint_check.misfits(checkpoint_check.without_retired(stored, expected), expected)
    if lines:
        raise ValueError(f"the checkpoint {path} does not fit this run:\n  " + "\n  ".join(lines))
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # other leaves of the checkpoint are not read
    with context:
        return ocp.load(path, abstract)


def _check_shardings(abstract) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        if leaf.sharding is None:  # orbax would then ask for the devices of the run that wrote it
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name}: {leaf} has no sharding; a jax.ShapeDtypeStruct with one is needed")
