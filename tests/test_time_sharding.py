"""Ops on a mesh whose axes split rows, heads and the sequence: what one device computes, in values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import matrix_ops
from recurrax import ops
from recurrax.mixers import RGLRU, TransNormerLLM
from recurrax.models import LanguageModel, LanguageModelConfig

BATCH, LENGTH, HEADS = 2, 40, 2  # five tokens on each of eight devices: less than a chunk, and no multiple of one
CLOSE = 1e-5

MESHES = {
    "time=8": ((8,), ("time",), AxisType.Auto),
    "data=2,time=4, explicit": ((2, 4), ("data", "time"), AxisType.Explicit),
    "data=2,tensor=2,time=2": ((2, 2, 2), ("data", "tensor", "time"), AxisType.Auto),
    "time=4": ((4,), ("time",), AxisType.Auto),
}
SEQUENCES = {"q", "k", "v", "a", "b", "c", "beta", "log_decay", "x", "dt", "reset"}


def matrix_case(case):
    def op(reset=None, **inputs):
        return matrix_ops.call(case, inputs, reset=reset)

    return op, matrix_ops.draw(case, LENGTH, batch=BATCH, heads=HEADS, queries=2)


def vector_case(name):
    rng = np.random.default_rng(3)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def complex_normal(*shape):
        return (normal(*shape) + 1j * normal(*shape)).astype(np.complex64)

    width, states, taps = 4, 3, 4
    x, h0 = normal(BATCH, LENGTH, width), normal(BATCH, width)
    decays = np.exp(-0.2 * np.exp(normal(BATCH, LENGTH, width)))
    phases = np.exp(1j * normal(BATCH, LENGTH, width)).astype(np.complex64)
    scan = {"x": x, "a": decays, "h0": h0}
    log_a = -0.1 * np.exp(normal(width, states))
    system = {"x": x, "b": normal(width, states), "c": normal(width, 2, states)}
    conv = {"x": x, "kernel": normal(taps, width), "bias": normal(width), "state": normal(BATCH, taps - 1, width)}
    rates = {"dt": np.exp(normal(BATCH, LENGTH, width) - 2), "a": -np.exp(normal(width, states))}
    selection = {"b": normal(BATCH, LENGTH, states), "c": normal(BATCH, LENGTH, states)}
    long = {"x": x, "state": normal(BATCH, LENGTH - 1, width), "kernel": normal(width, LENGTH)}
    cases = {
        "diagonal": (ops.diagonal_scan, scan),
        "diagonal, backwards": (functools.partial(ops.diagonal_scan, reverse=True), scan),
        "diagonal, chunked": (functools.partial(ops.diagonal_scan, implementation="chunked", chunk_size=2), scan),
        "diagonal, complex": (ops.diagonal_scan, {**scan, "a": decays * phases, "h0": complex_normal(BATCH, width)}),
        "diagonal, one decay": (ops.diagonal_scan, {**scan, "a": decays[0, 0]}),
        "selective": (ops.selective_scan, {"x": x, **rates, **selection, "state": normal(BATCH, width, states)}),
        "state space": (ops.state_space, {**system, "a": log_a, "state": normal(BATCH, width, states)}),
        "state space, complex": (
            ops.state_space,
            {**system, "a": log_a + 1j * log_a, "state": complex_normal(BATCH, width, states)},
        ),
        "state space, dense": (
            ops.state_space,
            {**system, "a": 0.1 * normal(width, states, states), "state": normal(BATCH, width, states)},
        ),
        "convolution": (ops.causal_conv1d, conv),
        "convolution, wide": (
            ops.causal_conv1d,
            {**conv, "kernel": normal(14, width), "state": normal(BATCH, 13, width)},
        ),
        "long convolution": (ops.long_convolution, long),
    }
    return cases[name]


CONVOLUTIONS = ("convolution", "convolution, wide", "long convolution")
VECTOR_CASES = (
    *("diagonal", "diagonal, backwards", "diagonal, chunked", "diagonal, complex", "diagonal, one decay", "selective"),
    *("state space", "state space, complex", "state space, dense"),
    *CONVOLUTIONS,
)


def build(case):
    return matrix_case(case) if case in matrix_ops.CASES else vector_case(case)


def resets():
    """At a border of eighths, before and after one; the second row has them elsewhere, one at its first token."""
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[0, [5, 14, 21]] = True
    reset[1, [0, 30, 31]] = True
    return reset


def numbers(op, inputs, reset):
    """Outputs, last state, and the gradients of a sum over both in which every entry has another weight."""
    extra = {} if reset is None else {"reset": reset}

    def total(inputs):
        results = op(**inputs, **extra)
        weighted = 0.0
        for result in results:
            weights = jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape)
            squares = (result * result.conj()).real if jnp.iscomplexobj(result) else result + result**2
            weighted += (weights * squares).sum()
        return weighted, results

    (_, results), gradients = jax.value_and_grad(total, has_aux=True)(inputs)
    return results, gradients


def on_mesh(op, inputs, reset, mesh):
    """The same, the sequences dealt to the devices beforehand."""
    rows = "data" if "data" in mesh.shape else None

    def put(name, value):
        is_sequence = name in SEQUENCES and value.shape[:2] == (BATCH, LENGTH)
        spec = PartitionSpec(rows, "time") if is_sequence else PartitionSpec()
        return jax.device_put(value, jax.NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        placed = {name: put(name, value) for name, value in inputs.items()}
        reset = None if reset is None else put("reset", reset)
        return jax.jit(functools.partial(numbers, op))(placed, reset)


def make_mesh(name):
    sizes, axes, kind = MESHES[name]
    return jax.make_mesh(sizes, axes, axis_types=(kind,) * len(sizes))


@functools.cache
def alone(case, with_resets):
    op, inputs = build(case)
    return jax.jit(functools.partial(numbers, op))(inputs, resets() if with_resets else None)


def assert_is_one_device(case, mesh):
    op, inputs = build(case)
    with_resets = case != "long convolution"
    got = on_mesh(op, inputs, resets() if with_resets else None, make_mesh(mesh))
    leaves = jax.tree_util.tree_leaves_with_path(got)
    for (path, found), wanted in zip(leaves, jax.tree.leaves(alone(case, with_resets)), strict=True):
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < CLOSE, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize("case", ["linear attention, channel", "delta rule, scalar", *VECTOR_CASES[:4], *CONVOLUTIONS])
def test_stretches_of_one_sequence_are_the_whole(case):
    assert_is_one_device(case, "time=8")


@pytest.mark.parametrize("case", [*matrix_ops.ONE_PER_OP, *VECTOR_CASES])
def test_explicit_axes_and_rows_split_too(case):
    assert_is_one_device(case, "data=2,time=4, explicit")


@pytest.mark.parametrize("case", [*matrix_ops.ONE_PER_OP, "diagonal", "selective", "state space", "convolution"])
def test_rows_heads_and_time_at_once(case):
    assert_is_one_device(case, "data=2,tensor=2,time=2")


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")


def collectives(case, length, *, gradients):
    """The compiled program's: (kind, numbers sent) of each, sorted."""
    op, inputs = build(case)
    mesh = make_mesh("time=4")

    def shape(name, value):
        is_sequence = name in SEQUENCES and value.shape[:2] == (BATCH, LENGTH)
        sizes = (BATCH, length, *value.shape[2:]) if is_sequence else value.shape
        split = jax.NamedSharding(mesh, PartitionSpec(None, "time") if is_sequence else PartitionSpec())
        return jax.ShapeDtypeStruct(sizes, value.dtype, sharding=split)

    shapes = {name: shape(name, value) for name, value in inputs.items()}
    function = numbers if gradients else lambda op, inputs, reset: op(**inputs, reset=reset)
    with jax.set_mesh(mesh):
        program = jax.jit(lambda inputs, reset: function(op, inputs, reset))
        return sent(program.lower(shapes, shape("reset", resets())))


def sent(lowered):
    """The collectives of a program."""
    text, found = lowered.compile().as_text(), []
    for result, kind in COLLECTIVE.findall(text):
        sizes = [[int(n) for n in dims.split(",") if n] for dims in re.findall(r"\[([\d,]*)\]", result)]
        found.append((kind, sum(int(np.prod(dims)) for dims in sizes)))
    return sorted(found)


# In numbers; a state of linear attention and the delta rules is (B, H, K, V) = 2 * 2 * 8 * 8, one of each of 4 devices.
STATE = 2 * 2 * 8 * 8
FOLDS = {
    "linear attention, channel": [4 * 2 * 2 * 8, 4 * STATE],  # a decay per key channel
    "delta rule, scalar": [4 * STATE, 4 * STATE],  # K x K
    "diagonal": [4 * 2 * 4, 4 * 2 * 4],
    "selective": [4 * 2 * 4 * 3, 4 * 2 * 4 * 3],
}


@pytest.mark.parametrize("case", FOLDS)
def test_recurrences_gather_transitions_and_states_and_nothing_else(case):
    forward = collectives(case, LENGTH, gradients=False)
    # And in which shards a document starts, one bit per row: it has no gradient.
    assert forward == sorted(("all-gather", size) for size in (*FOLDS[case], 4 * BATCH))
    # Back: the same, scattered. What remains sums the loss of the test, and gradients of what all devices have.
    both = collectives(case, LENGTH, gradients=True)
    assert [found for found in both if found[0] == "all-gather"] == forward
    assert [found for found in both if found[0] == "reduce-scatter"] == sorted(
        ("reduce-scatter", size // 4) for size in FOLDS[case]
    )
    assert {kind for kind, _ in both} == {"all-gather", "reduce-scatter", "all-reduce"}
    assert collectives(case, 4 * LENGTH, gradients=True) == both  # nothing grows with the sequence


def test_a_convolution_passes_its_halo_to_the_neighbour():
    halo = BATCH * 3 * 4
    forward = collectives("convolution", LENGTH, gradients=False)
    # The inputs, and whether they are of the open document; then the last state from the last device.
    assert sorted(found for found in forward if found[0] == "collective-permute") == [
        ("collective-permute", BATCH * 3),
        ("collective-permute", halo),
    ]
    assert sum(size for kind, size in forward if kind == "all-reduce") == halo + BATCH * 3
    assert {kind for kind, _ in forward} == {"collective-permute", "all-reduce"}
    both = collectives("convolution", LENGTH, gradients=True)
    assert collectives("convolution", 4 * LENGTH, gradients=True) == both


@pytest.mark.parametrize("mixer", [RGLRU(num_heads=2), TransNormerLLM(num_heads=2)])
def test_model_sends_no_more_for_longer_sequences(mixer):
    """The bytes that a model sends between devices do not grow with the sequence."""
    config = LanguageModelConfig(dim=8, num_layers=1, pattern=(mixer,), vocab_size=16)
    model = LanguageModel(config)
    mesh = jax.make_mesh((2, 4), ("data", "time"), axis_types=(AxisType.Auto,) * 2)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))

    def loss(params, tokens, reset):
        return jax.nn.log_softmax(model.apply(params, tokens, reset=reset)[0])[..., 0].mean()

    def at(length):
        split = jax.NamedSharding(mesh, PartitionSpec("data", "time"))
        # Two rows on a device: batch and time, merged, would not be split along both.
        inputs = (jax.ShapeDtypeStruct((4, length), dtype, sharding=split) for dtype in (jnp.int32, jnp.bool_))
        with jax.set_mesh(mesh):
            return sent(jax.jit(jax.grad(loss)).lower(params, *inputs))

    assert at(80) == at(LENGTH)


def test_callers_kernel_is_split_by_channels():
    """A kernel that the caller computes is split by channels."""
    op, inputs = build("state space")
    given = {name: value for name, value in inputs.items() if name != "state"}

    def total(given):
        def kernel(length):
            powers = jnp.exp(given["a"][:, None] * jnp.arange(length)[None, :, None])
            return jnp.einsum("dmn,dtn,dn->dmt", given["c"], powers, given["b"])

        return jnp.sin(op(**given, kernel=kernel, chunk_size=8)[0]).sum()

    wanted = jax.value_and_grad(total)(given)
    with (
        jax.set_mesh(make_mesh("data=2,tensor=2,time=2")),
        pytest.raises(ValueError, match="a sequence that a mesh splits"),
    ):
        op(**given, implementation="fft")
    for mesh in (jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2), make_mesh("time=4")):
        with jax.set_mesh(mesh):
            got = jax.jit(jax.value_and_grad(total))(given)
        for found, expected in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert np.linalg.norm(found - expected) < CLOSE * np.linalg.norm(expected)


def test_a_sequence_that_cannot_be_cut_is_refused():
    op, inputs = build("diagonal")
    shorter = {name: value[:, :38] if name != "h0" else value for name, value in inputs.items()}
    with (
        jax.set_mesh(make_mesh("time=8")),
        pytest.raises(ValueError, match="sequence of 38 cannot be cut into 8 equal shards.*pad it to a multiple of 8"),
    ):
        op(**shorter)


def test_errors_name_the_whole_arrays(unchecked_shapes):
    op, inputs = build("delta rule, scalar")
    with jax.set_mesh(make_mesh("time=8")):
        with pytest.raises(ValueError, match=r"beta must be \(B, T, H\) = \(2, 40, 2\), got shape \(2, 40, 1\)"):
            op(**{**inputs, "beta": inputs["beta"][..., :1]})
        with pytest.raises(ValueError, match="log_decay must be <= 0"):
            op(**{**inputs, "log_decay": -inputs["log_decay"]})


def test_a_single_token_is_not_split():
    op, inputs = build("delta rule, scalar")
    token = {name: value if name == "state" else value[:, :1] for name, value in inputs.items()}
    with jax.set_mesh(make_mesh("time=8")):
        got = jax.jit(op)(**token)
    for found, wanted in zip(got, op(**token), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
