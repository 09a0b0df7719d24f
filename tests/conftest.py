"""Every test sees eight CPU devices, and strict shapes: no array is broadcast to a higher rank by accident."""

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import inspect
import json
import os
import pathlib
import shutil
import textwrap

# Child processes inherit this; the tests that time a mesh start from it as well.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Programs here run a few times on small arrays: most of what LLVM would do to them is not worth its while. The older
# emitters compile in a third of the time, and one LLVM module per program, instead of 32, saves a quarter of the rest.
# Where XLA does not know a flag it ends the process: 0.10 does.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import jaxtyping
import pytest

from train.compiler import avoid_unsound_fusions

avoid_unsound_fusions()  # as train and eval do: a test's own process and its children compile the same
jax.config.update("jax_numpy_rank_promotion", "raise")
# Traces and programs live on by the million objects: to look through all of them less often saves 6 % of the time.
gc.set_threshold(100_000, 20, 20)


@pytest.fixture
def unchecked_shapes():
    """Turns the signatures' shape checks off, a tenth of the time of tracing: what users without beartype get."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Return a folder of real text: some of the interpreter's own sources."""
    folder = tmp_path_factory.mktemp("text")
    for module in (textwrap, contextlib, functools, dataclasses, inspect, json):
        (folder / f"{module.__name__}.txt").write_text(inspect.getsource(module))
    return folder


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Compile each program once for all runs of this worker, those of child processes among them."""
    from runs import program_cache  # the applications are imported where runs are tested, and nowhere else

    # The models of runs have their shapes checked in tests of the library; here the checks are a tenth of the time.
    jaxtyping.config.update("jaxtyping_disable", True)
    with program_cache(tmp_path_factory.getbasetemp() / "compiled"):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def small_run(text, tmp_path_factory):
    """Return the workdir of a small run that went to its end in one call; a test changes a copy of it."""
    from runs import program_cache, small
    from train.loop import Outcome, train

    path = tmp_path_factory.mktemp("small") / "run"
    with program_cache(tmp_path_factory.getbasetemp() / "compiled"):
        assert train(small(text), str(path)) == Outcome(12, interrupted=False)
    return path


@pytest.fixture(scope="session")
def state_100():
    """Return a small training state of step 100."""
    from support.checkpointing import make_state, shard

    return shard(make_state(100))


@pytest.fixture(scope="session")
def state_200():
    """Return a small training state of step 200."""
    from support.checkpointing import make_state, shard

    return shard(make_state(200))


@pytest.fixture(scope="session")
def saved_checkpoints(state_100, state_200, tmp_path_factory):
    """Return a directory with checkpoints of both states, to be copied and never changed."""
    from train.checkpoint import CheckpointConfig, Checkpointer

    path = tmp_path_factory.mktemp("template") / "checkpoints"
    with Checkpointer(path, CheckpointConfig()) as checkpointer:
        checkpointer.save(100, state_100)
        checkpointer.save(200, state_200)
    return path


@pytest.fixture
def checkpoints(saved_checkpoints, tmp_path):
    """Return a copy of the directory with checkpoints 100 and 200."""
    return pathlib.Path(shutil.copytree(saved_checkpoints, tmp_path / "checkpoints"))


# Files of one group share compiled programs, so they stay in one worker.
TOGETHER = dict.fromkeys(("test_models.py", "test_readouts.py", "test_description.py"), "models")
# Files whose cases are spread over the workers. Files of one group share the compiled programs of a case.
CASE_BY_CASE = {
    **dict.fromkeys(("test_mixers.py", "test_mixer_meshes.py", "test_mixer_splits.py"), "mixers"),
    "test_mixer_stacks.py": "mixers",
    **{name: name for name in ("test_notebooks.py", "test_number_formats.py", "test_pretrained.py")},
    "test_time_sharding.py": "test_time_sharding.py",
}


def group(nodeid):
    """Return the name of the tests that run in one worker: a file, or one case of the files in CASE_BY_CASE."""
    path, _, test = nodeid.partition("::")
    name, (_, _, case) = pathlib.PurePath(path).name, test.partition("[")
    return f"{CASE_BY_CASE[name]} {case}" if case and name in CASE_BY_CASE else TOGETHER.get(name, name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file in one worker, where its fixtures and compiled programs live; spread long tables case by case."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        # Not by the mark xdist_group: from pytest 9.2 on, xdist 3.8 loses it.
        def _split_scope(self, nodeid):
            return group(nodeid)

    return Scheduling(config, log)
