"""Provide small runs and readers of what they leave behind, for the tests of the applications.

The fixtures `text`, `small_run` and `compiled_once` are in conftest.py.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from train import presets, session, sharding
from train.checkpoint import Checkpointer
from train.config import TrainConfig
from train.config_json import from_json
from train.state import abstract_state
from train.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[1]

# One recurrent layer on one device: what a loop needs to go round.
SMALL = {
    "steps": 12,
    "model.num_layers": 1,
    "model.dim": 16,
    "data.sequence_length": 32,
    "optimizer.schedule.decay_steps": 12,
    "evaluation.every": 5,
    "evaluation.max_batches": 2,
    "checkpoint.every": 4,
    "mesh.data": 1,
}

# Calls `main(sys.argv[5:])` and sends itself signal argv[4] at call number argv[3] of the function argv[2] in the
# module argv[1]: before the call or, where the number is negative, after it.
INTERRUPTED = """
import functools, importlib, os, sys
(*path, name), count, number = sys.argv[2].split("."), int(sys.argv[3]), int(sys.argv[4])
module = functools.reduce(getattr, path, importlib.import_module(sys.argv[1]))
inner, calls = getattr(module, name), 0

@functools.wraps(inner)
def outer(*args, **kwargs):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), number)
    result = inner(*args, **kwargs)
    if calls == -count:
        os.kill(os.getpid(), number)
    return result

setattr(module, name, outer)
from train.__main__ import main
sys.exit(main(sys.argv[5:]))
"""


@contextlib.contextmanager
def program_cache(folder):
    """Keep compiled programs in this folder: those of this process, and those of the processes that it starts.

    A folder belongs to one worker of pytest: JAX writes its files in place, and another worker could read half of one.
    """
    settings = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.1}
    with contextlib.ExitStack() as stack:
        stack.callback(compilation_cache.reset_cache)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in settings.items():
            stack.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        # The allocator of a process is set once and for all: not in the process that runs the tests.
        patch.setattr("train.__main__.keep_freed_memory", lambda: False, raising=False)
        compilation_cache.reset_cache()
        yield


def small(text, **changes) -> TrainConfig:
    """The preset `tiny` with the settings SMALL and then these (dots as double underscores)."""
    settings = SMALL | {"data.path": str(text)} | {name.replace("__", "."): value for name, value in changes.items()}
    return replaced(presets.tiny(), settings)


def replaced(config, settings):
    """Return the config with these fields, whose names may have dots, replaced."""
    parts: dict[str, dict] = {}
    for name, value in settings.items():
        field, _, rest = name.partition(".")
        parts.setdefault(field, {})[rest] = value
    fields = {
        field: values[""] if "" in values else replaced(getattr(config, field), values)
        for field, values in parts.items()
    }
    return dataclasses.replace(config, **fields)


def flags(text, **changes) -> list[str]:
    """The same settings for the command line."""
    settings = SMALL | {"data.path": str(text)} | {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def command(*words, **options) -> subprocess.CompletedProcess:
    """`python WORDS` at the root of the tree, to its end, with its output."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )


def metrics(path) -> list[dict]:
    """The rows of metrics.jsonl without their speed; every line must be whole."""
    rows = [json.loads(line) for line in (pathlib.Path(path) / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row.pop("tokens_per_second") > 0
    return rows


@functools.cache
def _abstract(config: TrainConfig):
    return abstract_state(config, sharding.make_mesh(config.mesh))


def saved_state(path, step=None) -> dict[str, tuple]:
    """Every array of a run's checkpoint: its path, then dtype, shape and bytes."""
    workdir = Workdir(path)
    config = from_json(json.loads(workdir.config_path.read_text()))
    with Checkpointer(workdir.checkpoints_path, config.checkpoint) as checkpointer:
        state = checkpointer.restore(_abstract(config), step=step)
    return {name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in arrays(state).items()}


def arrays(tree) -> dict[str, np.ndarray]:
    """The leaves of a tree by path; random keys as the numbers they are stored in."""

    def value(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value(leaf) for path, leaf in leaves}


def checkpoints(path) -> list[int]:
    """Steps of the complete checkpoints of a run."""
    folder = pathlib.Path(path) / "checkpoints"
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal()) if folder.exists() else []


def assert_same_run(path, expected) -> None:
    """The same last state to the last bit, and the same row for every step."""
    rows, wanted = metrics(path), metrics(expected)
    differing = [(row, other) for row, other in zip(rows, wanted, strict=False) if row != other]
    assert rows == wanted, f"{len(rows)} rows instead of {len(wanted)}, different: {differing}"
    assert checkpoints(path)[-1] == checkpoints(expected)[-1]
    found, wanted = saved_state(path), saved_state(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []
    assert {"step", "key"} < found.keys()
    assert all(any(name.startswith(part) for name in found) for part in ("params/", "opt_state/"))


def snapshot(path) -> dict[str, str | None]:
    """Every file under `path` with a hash of its contents and its time stamp; None for folders."""
    return {
        str(entry): f"{hashlib.sha256(entry.read_bytes()).hexdigest()} {entry.stat().st_mtime_ns}"
        if entry.is_file()
        else None
        for entry in pathlib.Path(path).rglob("*")
    }


def at_batch(monkeypatch, step: int, action) -> None:
    """Calls `action(batch)` before the loop gets the batch of this step; what it returns takes the batch's place."""
    batches = session.train_batches

    def watched(rows, config, seed, start, local):
        with contextlib.closing(batches(rows, config, seed, start, local)) as inner:
            for number, batch in enumerate(inner, start + 1):
                yield (action(batch) or batch) if number == step else batch

    monkeypatch.setattr(session, "train_batches", watched)
