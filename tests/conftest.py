"""Every test sees eight CPU devices, and strict shapes: no array is broadcast to a higher rank by accident."""

import os

# Child processes inherit this; the tests that time a mesh start from it as well.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def unchecked_shapes():
    """Turns the signatures' shape checks off: what users without beartype get."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
