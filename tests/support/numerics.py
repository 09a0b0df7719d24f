"""Draw numbers and compare them: each measure of an error has one meaning in all tests."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(*shape, seed=0):
    """Return float32 normal numbers (shape) that depend on the shape and the seed alone."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def wide(array):
    """Return the same numbers in a dtype that NumPy computes with: bfloat16 is upcast to float32."""
    return np.asarray(array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array)


def largest_error(got, want):
    """Return the largest error over the largest value, and 0 or 1 for booleans. Raises as `comparable`."""
    got, want = comparable(got, want)
    if got.dtype == bool:
        return float((got != want).any())
    return np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30)


def relative_error(got, want):
    """Return the root mean square of the error over that of the value. Raises as `comparable`."""
    got, want = comparable(got, want)
    return np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)


def comparable(got, want):
    """Return both as NumPy arrays.

    Raises:
      AssertionError: the shapes differ, or a number of `got` is not finite.
    """
    got, want = wide(got), wide(want)
    assert got.shape == want.shape, f"shape {got.shape} instead of {want.shape}"
    assert np.isfinite(got).all()
    return got, want


def differentiable(tree):
    """Return the leaves by path, without the gradients of integers and booleans, which have no numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.dtype != jax.dtypes.float0}


def assert_close(got, want, bound, label=""):
    """Assert that two pytrees have the same paths, and that no leaf has a `largest_error` above the bound."""
    got, want = differentiable(got), differentiable(want)
    assert got.keys() == want.keys()
    for path, leaf in got.items():
        found = largest_error(leaf, want[path])
        assert found <= bound, f"{label}{path} is off by {found:.1e} of its size"
