"""Kernels for TPUs, interpreted: at the borders of their blocks, in every dtype, without races, with planted errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from eval import oracles
from oracles.common import wide
from recurrax import ops
from recurrax.ops import OPS, diagonal_scan, forward_mode, platforms
from recurrax.ops.families.diagonal import pallas_tpu, pallas_tpu_kernels
from recurrax.ops.families.selective_scan import pallas_tpu_kernels as scan_kernels
from recurrax.ops.pallas_tpu import decays, grid, inverse
from support.numerics import draw, relative_error

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

STEPS = 2
BLOCK = 8 * STEPS
"""Tokens of a block with the fewest steps per chunk."""
CLOSE = {"float32": 1e-6, "complex64": 1e-6, "bfloat16": 5e-3}


def inputs(length, dtype, width=5):
    """Two rows of inputs, their resets at and beside borders of blocks, and cotangents."""
    kind = "complex" if dtype == "complex64" else "real"
    drawn = OPS["diagonal_scan"].inputs(length, kind, B=2, T=length, D=width)
    arrays = {name: jnp.asarray(value) for name, value in drawn.items()}
    arrays |= {name: arrays[name].astype(dtype) for name in ("a", "x")}
    reset = np.zeros((2, length), bool)
    reset[0, [t for t in (0, BLOCK, 2 * BLOCK - 1, length - 1) if t < length]] = True
    cotangents = [
        jnp.asarray(draw(*arrays[name].shape, seed=i), arrays[name].dtype) for i, name in enumerate(("x", "h0"))
    ]
    return arrays, reset, tuple(cotangents)


def evaluated(arrays, reset, cotangents, reverse=False, implementation="pallas_tpu"):
    def run(arrays):
        return diagonal_scan(**arrays, reset=reset, reverse=reverse, chunk_size=STEPS, implementation=implementation)

    results, pullback = jax.vjp(run, arrays)
    return results, pullback(cotangents)[0]


def errors(arrays, reset, cotangents, reverse=False):
    """Return the errors of h, the last state and the gradients of a, x and h0 against float64."""
    (h, last), gradients = jax.jit(functools.partial(evaluated, reverse=reverse))(arrays, reset, cotangents)
    given = {**jax.tree.map(wide, arrays), "reset": reset}
    want_h, want_last, want = oracles.diagonal_scan(given, jax.tree.map(wide, cotangents), reverse)
    pairs = [(h, want_h), (last, want_last), *((gradients[name], want[name]) for name in ("a", "x", "h0"))]
    return [relative_error(got, truth) for got, truth in pairs]


@pytest.mark.parametrize(
    ("dtype", "length"),
    [*(("float32", length) for length in (1, 63, 64, 65, 200)), ("bfloat16", 65), ("complex64", 64), ("complex64", 65)],
)
def test_kernel_is_the_definition_at_borders_of_blocks(dtype, length):
    """Values and every gradient are those of the oracle, for whole and incomplete blocks, forwards and backwards."""
    assert max(errors(*inputs(length, dtype), reverse=length % 2 == 0)) <= CLOSE[dtype]


SIZES = {"selective_scan": {"E": 140, "N": 5}, "causal_conv1d": {"D": 130, "W": 4}}


def chunk_errors(op, length, decay, dtype):
    """Return the errors of an op's outputs, last state and gradients, with resets around chunks of 16."""
    sizes = SIZES.get(op, {"H": 2, "Hq": 4, "K": 5, "V": 7})
    drawn = OPS[op].inputs(length, decay, B=2, T=length, **sizes)
    arrays = {name: jnp.asarray(x) if name == "state" else jnp.asarray(x).astype(dtype) for name, x in drawn.items()}
    reset = np.zeros((2, length), bool)
    reset[0, [t for t in (0, 16, 31, 254, length - 1) if t < length]] = True
    options = {} if op == "causal_conv1d" else {"chunk_size": 16}

    def run(arrays):
        return getattr(ops, op)(**arrays, reset=reset, implementation="pallas_tpu", **options)

    @jax.jit
    def evaluated(arrays, cotangents):
        results, pullback = jax.vjp(run, arrays)
        return results, pullback(cotangents)[0]

    like = jax.eval_shape(run, arrays)
    cotangents = tuple(jnp.asarray(draw(*each.shape, seed=i), each.dtype) for i, each in enumerate(like))
    results, gradients = evaluated(arrays, cotangents)
    given = {**jax.tree.map(wide, arrays), "reset": reset}
    *want, want_gradients = getattr(oracles, op)(given, cotangents=jax.tree.map(wide, cotangents))
    pairs = [*zip(results, want, strict=True), *((gradients[name], want_gradients[name]) for name in arrays)]
    return [relative_error(got, truth) for got, truth in pairs]


@pytest.mark.parametrize(
    ("op", "decay", "length", "dtype"),
    [
        ("linear_attention", "none", 64, "float32"),
        ("linear_attention", "scalar", 1, "float32"),
        ("linear_attention", "scalar", 63, "bfloat16"),
        ("linear_attention", "scalar", 65, "float32"),
        ("linear_attention", "channel", 63, "bfloat16"),
        ("linear_attention", "channel", 200, "float32"),
        ("delta_rule", "none", 64, "float32"),
        ("delta_rule", "scalar", 1, "float32"),
        ("delta_rule", "scalar", 63, "bfloat16"),
        ("delta_rule", "scalar", 65, "float32"),
        ("delta_rule", "channel", 63, "bfloat16"),
        ("delta_rule", "channel", 200, "float32"),
        ("delta_product", "scalar", 65, "float32"),
        ("selective_scan", "", 1, "float32"),
        ("selective_scan", "", 63, "bfloat16"),
        ("selective_scan", "", 65, "float32"),
        ("causal_conv1d", "", 2, "float32"),
        ("causal_conv1d", "", 257, "bfloat16"),
    ],
)
def test_chunk_kernel_is_the_definition_at_borders_of_chunks(op, decay, length, dtype):
    """Values and every gradient are those of the oracle, for grouped heads and sizes that fill no register."""
    assert max(chunk_errors(op, length, decay, dtype)) <= {"float32": 1e-5, "bfloat16": 1e-2}[dtype]


def test_kernel_keeps_dtypes_of_inputs():
    """In half precision the outputs and gradients have it, and the states float32."""
    arrays, reset, cotangents = inputs(20, "bfloat16")
    (h, last), gradients = jax.eval_shape(evaluated, arrays, reset, cotangents)
    assert (h.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    assert {name: each.dtype for name, each in gradients.items()} == {name: each.dtype for name, each in arrays.items()}


def test_kernel_has_second_derivatives():
    """The gradient of a function of the kernel's gradients is that of the definition."""
    arrays, reset, cotangents = inputs(20, "float32")

    def loss(arrays, implementation):
        _, gradients = evaluated(arrays, reset, cotangents, implementation=implementation)
        return sum((each**2).sum() for each in jax.tree.leaves(gradients))

    got, want = (
        jax.jit(jax.grad(functools.partial(loss, implementation=name)))(arrays) for name in ("pallas_tpu", "reference")
    )
    for name, each in want.items():
        assert relative_error(got[name], each) <= 1e-5, name


def nothing_read(self, readers, gradients):
    """Planted for the part of a gradient that comes from readers."""
    self.read = jnp.zeros_like(readers)


@pytest.mark.parametrize(
    ("module", "name", "planted"),
    [
        (pallas_tpu_kernels, "_copy_neighbour", lambda *arguments: None),
        (pallas_tpu._Grid, "_block", lambda self, t: jnp.maximum(t - 1, 0)),
        (pallas_tpu_kernels, "_reset_row", lambda *arguments: None),
    ],
)
def test_planted_errors_of_blocks_are_seen(monkeypatch, module, name, planted):
    """The comparison with the oracle sees blocks without their neighbours, a block too early, and missing resets."""
    monkeypatch.setattr(module, name, planted)
    jax.clear_caches()
    try:
        worst = max(errors(*inputs(65, "float32")))
    except AssertionError:  # not finite
        worst = np.inf
    jax.clear_caches()
    assert worst > 1e-3


@pytest.mark.parametrize(
    ("op", "decay", "module", "name", "planted"),
    [
        ("linear_attention", "channel", decays, "_middles", lambda sums, half: jnp.zeros_like(sums)),
        ("linear_attention", "channel", decays.ChannelDecay, "seen", nothing_read),
        ("linear_attention", "scalar", decays.HeadDecay, "carried", lambda *arguments: None),
        ("linear_attention", "scalar", grid.Grid, "_number", lambda self, n: jnp.maximum(n - 1, 0)),
        ("delta_rule", "scalar", inverse, "_rolled", lambda x, shift: x),
        ("selective_scan", "", scan_kernels._Turn, "forgotten", lambda self, t, x: x),
        ("selective_scan", "", scan_kernels._SumsOfTokens, "_merged", lambda self, first, second, apart: first),
    ],
)
def test_planted_errors_of_chunks_are_seen(monkeypatch, op, decay, module, name, planted):
    """The comparison with the oracle sees wrong middles, parts missing in gradients and sums, and a chunk too early."""
    monkeypatch.setattr(module, name, planted)
    jax.clear_caches()
    try:
        worst = max(chunk_errors(op, 40, decay, "float32"))
    except AssertionError:  # not finite
        worst = np.inf
    jax.clear_caches()
    assert worst > 1e-3


@pytest.mark.parametrize("raced", [False, True])
def test_interpreter_finds_races(monkeypatch, raced):
    """Blocks of time that run on two cores at once race for the state; in their order they do not."""
    if raced:
        parameters = pltpu.CompilerParams(dimension_semantics=("parallel",) * 3)
        monkeypatch.setattr(pltpu, "CompilerParams", lambda **_: parameters)
    arrays, reset, (g, g_last) = jax.tree.map(lambda each: each[:1], inputs(48, "float32", width=128))
    interpret = pltpu.InterpretParams(detect_races=True, dma_execution_mode="on_wait", num_cores_or_threads=2)
    options = {"reverse": False, "chunk_size": STEPS, "interpret": interpret}
    h, _ = pallas_tpu.scan(arrays["a"], arrays["x"], arrays["h0"], reset, dtypes=(jnp.float32,), **options)
    found = interpret_pallas_call.races.races_found
    dtypes = (jnp.float32, jnp.float32)
    pallas_tpu.gradients(arrays["a"], h, arrays["h0"], reset, g, g_last, dtypes=dtypes, **options)
    assert (found or interpret_pallas_call.races.races_found) == raced


def test_kernel_refuses_what_it_cannot_do():
    """In float64 and in forward mode the kernel is refused with the reason, and another form runs by default."""
    x = np.ones((1, 3, 2))
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="takes float32, bfloat16 and complex64, and a is float64"),
    ):
        diagonal_scan(x, x, implementation="pallas_tpu")
    x = x.astype(np.float32)
    with forward_mode(), pytest.raises(ValueError, match="has no forward-mode derivative; use 'sequential' or"):
        diagonal_scan(x, x, implementation="pallas_tpu")
    with platforms.on("tpu"):
        for length, kernel in ((3, False), (64, True)):
            x = jax.ShapeDtypeStruct((1, length, 2), jnp.float32)
            assert ("pallas_call" in str(jax.make_jaxpr(diagonal_scan)(x, x))) == kernel


@pytest.mark.parametrize(
    ("op", "kernel", "sizes", "least"),
    [
        ("linear_attention", "linear_attention_forward", {"K": 8, "V": 8}, 64),
        ("delta_rule", "delta_rule_forward", {"K": 8, "V": 8}, 64),
        ("delta_product", "delta_rule_forward", {"K": 8, "V": 8}, 64),
        ("selective_scan", "selective_scan_forward", {"E": 16, "N": 4}, 64),
        ("causal_conv1d", "causal_conv1d_forward", {"D": 128, "W": 4}, 128),
    ],
)
def test_kernel_is_the_default_on_a_known_tpu(op, kernel, sizes, least):
    """Long sequences run in the kernel where the program is known to be for a TPU, not where it may be."""

    def program(length):
        drawn = OPS[op].inputs(T=length, **sizes)
        given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in drawn.items()}
        return str(jax.make_jaxpr(lambda arrays: getattr(ops, op)(**arrays))(given))

    assert kernel not in program(least)
    with platforms.on("tpu"):
        assert kernel in program(least)
        assert kernel not in program(least - 1)
