"""What ops declare: a wrong or missing declaration is refused with the choices; what a mesh's axes are used for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recurrax import ops
from recurrax.models import describe
from recurrax.ops import OPS, sharding
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import LastTokens

SCAN = OPS["diagonal_scan"]


def never(arguments):
    return "needs a chip that does not exist"


def changed(**changes):
    return functools.partial(dataclasses.replace, SCAN, **changes)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            changed(summary=None),
            r"'diagonal_scan' does not say how its state crosses a cut in time: summary must be one",
        ),
        (changed(summary=LastTokens), r"summary must be one of .*got <class"),
        (changed(implementations={}), "'diagonal_scan' has no implementation 'reference', its definition step by step"),
        (
            changed(implementations={**SCAN.implementations, "mine": Implementation(print, supports=never)}),
            "'mine' of diagonal_scan can never be chosen: .*because it needs a chip that does not exist",
        ),
        (lambda: Implementation(print, platforms=()), "platforms must be some of cpu, cuda, rocm, tpu, got ()"),
        (lambda: Implementation(print, platforms=("gpu",)), "platforms must be some of cpu, cuda, rocm, tpu"),
    ],
)
def test_op_refuses_what_is_not_declared(declare, message):
    with pytest.raises(ValueError, match=message):
        declare()


def test_kernel_is_one_more_implementation():
    """A kernel for one platform is chosen there alone; by name it runs interpreted elsewhere."""

    def kernel(*, interpret=False, **arrays):
        *copies, last = SCAN.implementations["sequential"].run(**arrays)
        return *((-h if interpret else 2 * h) for h in copies), last

    op = changed(implementations={"mine": Implementation(kernel, ("tpu",), interpret=True), **SCAN.implementations})()
    arrays = {"h0": None, "reset": None, "reverse": False, "chunk_size": None, **SCAN.inputs(B=1, T=3)}
    want, _ = SCAN(None, **arrays)
    np.testing.assert_array_equal(op(None, **arrays)[0], want)
    np.testing.assert_array_equal(op("mine", **arrays)[0], -want)
    with pytest.raises(
        ValueError, match="unknown implementation 'main' .*choose one of 'mine', 'pallas_tpu', 'sequential'"
    ):
        op("main", **arrays)


def test_every_public_op_is_in_the_registry():
    """OPS has the functions of `recurrax.ops` that take an implementation."""
    assert all(callable(getattr(ops, name)) and op.name == name for name, op in OPS.items())
    assert isinstance(SCAN, Op)


def mesh(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def test_used_says_what_each_axis_splits():
    devices = mesh(dp=2, sp=2, pp=2)
    unused = {"batch": (), "heads": (), "time": (), "unused": ("dp", "sp", "pp")}
    assert sharding.used(devices) == unused
    with sharding.axes(batch="dp", time="sp"):
        assert sharding.used(devices) == {"batch": ("dp",), "heads": (), "time": ("sp",), "unused": ("pp",)}
    assert sharding.used(devices) == unused


def test_axes_of_other_names_split_ops():
    """Ops are split along the named axes, with the numbers of one device, and along no other."""
    rng = np.random.default_rng(0)
    a, x = rng.uniform(0.5, 1, (2, 8, 4)).astype(np.float32), rng.normal(size=(2, 8, 4)).astype(np.float32)
    want, _ = ops.diagonal_scan(a, x)

    def compiled():
        return jax.jit(lambda a, x: ops.diagonal_scan(a, x)[0]).lower(a, x).compile()

    with jax.set_mesh(mesh(dp=2, sp=4)):
        assert "all-gather" not in compiled().as_text()  # whole on every device
        with sharding.axes(batch="dp", time="sp"):
            program = compiled()
            assert program.output_shardings.spec == PartitionSpec("dp", "sp")
            np.testing.assert_allclose(program(a, x), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": "dp", "time": "dp"}, "each mesh axis splits one thing, and one axis splits time; got batch='dp'"),
        ({"batch": "dp", "heads": "tp"}, "axes names 'tp'; the mesh has 'dp', 'sp'"),
    ],
)
def test_axes_that_do_not_fit_are_refused(arguments, message):
    with jax.set_mesh(mesh(dp=2, sp=4)), pytest.raises(ValueError, match=message), sharding.axes(**arguments):
        ops.diagonal_scan(jnp.ones((2, 8, 4)), jnp.ones((2, 8, 4)))


def test_describe_says_what_a_mesh_splits():
    devices = mesh(data=2, time=2, stage=2)
    array = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=NamedSharding(devices, PartitionSpec("data")))
    assert "mesh: data=2 (batch), time=2 (time), stage=2 (unused)" in describe({"kernel": array}).splitlines()
    assert "mesh" not in describe({"kernel": jnp.ones(3)})
