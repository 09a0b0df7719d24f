"""Provides the working directory of a run: its file names, its lock, and its small JSON files.

A run holds an exclusive `flock` on DIR/.lock from beginning to end; the kernel releases it when the process ends, even
by SIGKILL. Reading the directory (evaluation) needs no lock: use the paths of a `Workdir` that was not entered.
"""

import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import jax

from train import processes
from train.paths import local_path

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class Workdir:
    """The files of one run. Entering it creates the directory and locks it for this run."""

    def __init__(self, path: str | os.PathLike):
        self.path = local_path("workdir", path)
        try:
            is_file = not stat.S_ISDIR(os.stat(self.path).st_mode)
        except FileNotFoundError:
            is_file = False
        except OSError as error:
            raise ValueError(f"the working directory {self.path} cannot be used: {error.strerror}") from error
        if is_file:
            raise ValueError(f"the working directory {self.path} is a file; give a directory, or a name not in use")
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise ValueError(f"the name of the working directory {self.path} is not UTF-8, as orbax needs it") from None
        self.config_path = self.path / "config.json"
        self.versions_path = self.path / "versions.json"
        self.data_path = self.path / "data.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints_path = self.path / "checkpoints"
        self.loss_png_path = self.path / "loss.png"
        self.adapter_path = self.path / "adapter.npz"
        self._lock: int | None = None

    def __enter__(self) -> "Workdir":
        """Create and lock the directory.

        Raises:
          BlockingIOError: another run has the lock; the message names its process.
          ValueError: the directory cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the working directory {self.path} cannot be made: {error.strerror}") from error
        if processes.is_first():  # the processes of one run share the directory
            self._lock = _lock(self.path / ".lock")
        return self

    def __exit__(self, *exception) -> None:
        # The file is not removed: otherwise a third run could lock a new file while a second one holds the old file.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: pathlib.Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "of unknown number"
        os.close(descriptor)
        message = f"process {holder} is running in {path.parent}; stop it first, or give another working directory"
        raise BlockingIOError(error.errno, message) from None
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def computed_once(path: pathlib.Path, compute: Callable[[], Any]) -> Any:
    """Return what the JSON file has; where it is missing, compute it first and write it."""
    if not path.exists():
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, found)
    return read_json(path)


def write_json_atomically(path: str | os.PathLike, data) -> None:
    """Write `data` as JSON atomically: `path` holds either the old or the new content, even after a power failure."""
    path = pathlib.Path(path)
    text = json.dumps(data, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: str | os.PathLike) -> dict:
    """Return the JSON object in a file of a run.

    Raises:
      ValueError: the file is empty, truncated, or does not hold a JSON object; the message names it.
    """
    try:
        data = json.loads(pathlib.Path(path).read_bytes())
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object but {data!r:.40}")
    return data


def versions() -> dict:
    """Return the commit of this checkout, versions of packages (None: not installed), the platform and the devices."""
    devices = jax.devices()
    return {
        "git": _git_state(pathlib.Path(__file__).resolve().parent.parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "process_count": jax.process_count(),
    }


def _git_state(root: pathlib.Path) -> dict | None:
    """Return the commit and whether files differ from it; None if `root` is not a checkout, or git is missing."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    commit = git("rev-parse", "--verify", "HEAD")
    if top is None or commit is None or pathlib.Path(top).resolve() != root:  # a copy inside another repository
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain"))}


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(old: dict, new: dict) -> list[str]:
    """Return one line per value that differs between two nested dicts: `model.dim: 128 in the workdir, 256 now`.

    Values are compared as JSON stores them: a tuple equals a list, and 1 equals 1.0.
    """
    return _differences(json.loads(json.dumps(old)), json.loads(json.dumps(new)), "")


def _differences(old: dict, new: dict, prefix: str) -> list[str]:
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = (json.dumps(side[key]) if key in side else "absent" for side in (old, new))
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            lines += _differences(old[key], new[key], f"{prefix}{key}.")
        elif before != now and (key not in old or key not in new or not _equal(old[key], new[key])):
            lines.append(f"{prefix}{key}: {before} in the workdir, {now} now")
    return lines


def _equal(one, other) -> bool:
    """Return whether the values are equal in Python, except that True differs from 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other
