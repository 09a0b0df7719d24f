"""One traced function, lowered for each platform in one process, is that platform's program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import ops
from recurrax.ops import platforms
from recurrax.ops.tokenwise import scale
from train import sharding

T = 4096


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


CPU, OTHERS = ("cpu",), ("tpu", "cuda")
# A loss, the shapes of its arguments, and arrays of its gradient's program that some platforms alone have.
CASES = {
    # Blocks of 256 rows and of 2048.
    "linear_attention": (
        lambda q, log_decay: ops.linear_attention(q, q, q, -jnp.abs(log_decay))[0].sum(),
        (shaped(1, T, 2, 8), shaped(1, T, 2)),
        {"<1x256x2x8x": CPU, "<1x2048x2x8x": OTHERS},
    ),
    # Chunks of 16 tokens and of 128, with their 4 states.
    "selective_scan": (
        lambda x, a: ops.selective_scan(x, jnp.abs(x), -jnp.abs(a), x[..., :4], x[..., :4])[0].sum(),
        (shaped(1, T, 8), shaped(8, 4)),
        {"<1x16x8x4x": CPU, "<1x128x8x4x": OTHERS},
    ),
    # A step at a time, 64 chunks of 64, and a kernel.
    "diagonal_scan": (
        lambda a, x: ops.diagonal_scan(jnp.tanh(a), x)[0].sum(),
        (shaped(1, T, 8), shaped(1, T, 8)),
        {"<1x64x64x8x": ("cuda",), "tpu_custom_call": ("tpu",)},
    ),
    # Sums of 128 tokens as products with ones, and one sum.
    "scale": (lambda x, vector: scale(x, vector).sum(), (shaped(1, T, 8), shaped(8)), {"<32x128x8x": CPU}),
}


@functools.cache
def traced(name):
    loss, arguments, _ = CASES[name]
    return jax.jit(jax.grad(loss, (0, 1))).trace(*arguments)


@pytest.mark.parametrize("platform", [*CPU, *OTHERS])
@pytest.mark.parametrize("name", CASES)
def test_lowering_keeps_the_form_of_its_platform(name, platform):
    text = traced(name).lower(lowering_platforms=(platform,)).as_text()
    for array, where in CASES[name][2].items():
        assert (array in text) == (platform in where), array


@pytest.mark.parametrize("name", CASES)
def test_known_platform_needs_no_branch(name):
    """Within `platforms.on` nothing but this platform's form is traced, and the numbers are the same."""
    loss, arguments, _ = CASES[name]
    rng = np.random.default_rng(0)
    values = [rng.normal(size=argument.shape).astype(np.float32) for argument in arguments]
    outside = jax.jit(jax.grad(loss, (0, 1)))
    with platforms.on("cpu"):
        inside = jax.jit(jax.grad(loss, (0, 1)))
        assert "platform_index" not in str(jax.make_jaxpr(inside)(*values))
        got = inside(*values)
    assert "platform_index" in str(traced(name).jaxpr)
    for a, b in zip(got, outside(*values), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_traces_the_form_of_its_mesh_alone():
    assert len(platforms.candidates()) > 1
    with sharding.on(sharding.make_mesh(sharding.MeshConfig(data=1))):
        assert platforms.candidates() == ("cpu",)


def test_unknown_platform_is_refused():
    with pytest.raises(ValueError, match=r"unknown platform 'tpv' \(did you mean 'tpu'\?\); choose one of cpu, cuda"):
        platforms.on("tpv")


def test_stored_states_are_those_of_the_most_blocks():
    """One state before each of the CPU's blocks, of which a GPU fills the first; a known GPU stores its own alone."""
    loss, arguments, _ = CASES["linear_attention"]
    state = "f32[{},1,2,8,8]"

    def program():
        return str(jax.make_jaxpr(lambda *arrays: jax.vjp(loss, *arrays)[0])(*arguments))

    assert state.format(T // 256) in program()
    with platforms.on("gpu"):
        assert state.format(T // 256) not in program()
        assert state.format(T // 2048) in program()
