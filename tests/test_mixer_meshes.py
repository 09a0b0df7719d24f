"""Mixers of every op on a mesh that splits the sequence: the values and gradients of one device, as users get them."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mixer_cases import DIM, LENGTH
from support.layers import BATCH, FLOAT32, ONE_PER_OP, compiled
from support.numerics import assert_close, draw

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def starts_of_documents():
    """Within the tokens of the first device, at a border of two devices, and at the last token."""
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[0, [1, LENGTH // 2]] = True
    reset[1, LENGTH - 1] = True
    return reset


# What crosses a cut: each op (whose laws are in test_time_sharding.py), taps of a convolution, values of a layer below.
NAMES = (*ONE_PER_OP, "HGRN", "GLA with convolutions", "RWKV-7 with a value residual")


@pytest.mark.parametrize("name", NAMES)
def test_mixer_on_a_time_mesh(name):
    """With resets and an incoming state, values, the last state and all gradients are those of one device."""
    m = compiled(name)
    mesh = jax.make_mesh((4,), ("time",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "time"))
    x, g, starts = draw(BATCH, LENGTH, DIM), draw(BATCH, LENGTH, DIM, seed=1), starts_of_documents()
    (want, want_state), want_gradients = m.whole(m.params, x, m.start, starts, g)
    x, g, starts = (jax.device_put(array, split) for array in (x, g, starts))
    with jax.set_mesh(mesh):
        (y, state), gradients = m.whole(m.params, x, m.start, starts, g)
    assert y.sharding.spec[1] == "time"
    assert_close(y, want, FLOAT32, "y")
    assert_close(state, want_state, FLOAT32, "state")
    assert_close(gradients, want_gradients, FLOAT32, "gradient")
