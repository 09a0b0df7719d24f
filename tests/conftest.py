"""Every test sees eight CPU devices, and strict shapes: no array is broadcast to a higher rank by accident."""

import gc
import importlib.metadata
import os

# Child processes inherit this; the tests that time a mesh start from it as well.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Programs here run a few times on small arrays: most of what LLVM would do to them is not worth its while.
# The older emitters compile in a third of the time. Where XLA does not know a flag it ends the process: 0.10 does.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
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
    """Turns the signatures' shape checks off: what users without beartype get."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


CASE_BY_CASE = (
    *("test_mixers.py", "test_notebooks.py", "test_number_formats.py", "test_pretrained.py"),
    "test_time_sharding.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A file stays in one process, where its fixtures and compiled programs live; long tables go case by case."""
    for item in items:
        case = getattr(item, "callspec", None)
        by_case = item.path.name in CASE_BY_CASE and case is not None
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {case.id}" if by_case else item.path.name))
