"""Every op under JAX's switches of number formats: strict dtype promotion, x64, half precision, op by op.

Strict rank promotion is on in the whole suite (conftest.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import matrix_ops
from recurrax import ops
from support.numerics import draw

LENGTH = 3
DIAGONAL = tuple(name for name, each in ops.OPS["diagonal_scan"].implementations.items() if not each.interpret)
STATES = ("state", "h0")


def unit(*shape):
    """Complex numbers of size 1."""
    return np.exp(1j * draw(*shape, seed=1)).astype(np.complex64)


X, DECAY = draw(1, LENGTH, 3), np.exp(-np.abs(draw(1, LENGTH, 3)))
RATES = -np.abs(draw(3, 2))
SYSTEM = {"b": draw(3, 2), "c": draw(3, 1, 2), "state": draw(1, 3, 2)}
# Op, implementations (None: there is no choice), and inputs by name.
CASES = {
    "diagonal scan": (ops.diagonal_scan, DIAGONAL, {"a": DECAY, "x": X, "h0": X[:, 0]}),
    "diagonal scan, complex": (
        ops.diagonal_scan,
        DIAGONAL,
        {"a": unit(3), "x": X * unit(1, LENGTH, 3), "h0": unit(1, 3)},
    ),
    "selective scan": (
        ops.selective_scan,
        ("reference", "chunked"),
        {"x": X, "dt": DECAY, "a": RATES, "b": draw(1, LENGTH, 2), "c": draw(1, LENGTH, 2), "state": draw(1, 3, 2)},
    ),
    "state space": (ops.state_space, ("chunked",), {"x": X, "a": RATES, **SYSTEM}),
    "state space, complex": (
        ops.state_space,
        ("chunked",),
        {"x": X, "a": RATES + 1j * RATES, **SYSTEM, "state": unit(1, 3, 2)},
    ),
    "state space, dense": (ops.state_space, ("chunked",), {"x": X, "a": draw(3, 2, 2) / 8, **SYSTEM}),
    "state space without a state": (
        ops.state_space,
        ("fft",),
        {"x": X, "a": RATES, "b": SYSTEM["b"], "c": SYSTEM["c"]},
    ),
    "causal convolution": (
        ops.causal_conv1d,
        (None,),
        {"x": X, "kernel": draw(4, 3), "bias": draw(3), "state": draw(1, 3, 3)},
    ),
    "long convolution": (ops.long_convolution, (None,), {"x": X, "kernel": draw(3, 4), "state": draw(1, 3, 3)}),
}


def matrix_op(case):
    """Return the op of a case of the table of matrix-state ops, called with its inputs by name."""

    def op(reset=None, **options):
        inputs = {name: options.pop(name) for name in list(options) if name not in ("implementation", "chunk_size")}
        return matrix_ops.call(case, inputs, reset=reset, **options)

    return op


CASES |= {
    case: (matrix_op(case), matrix_ops.IMPLEMENTATIONS, matrix_ops.draw(case, LENGTH, key=4, value=4, queries=2))
    for case in matrix_ops.ONE_PER_OP
}
FORMS = [(name, form) for name, (_, forms, _) in CASES.items() for form in forms]
every_form = pytest.mark.parametrize(("name", "implementation"), FORMS)


def differentiated(name, implementation, inputs):
    """Output and last state, and the gradient of the sum of their numbers; a document starts at the last token."""
    op, options = CASES[name][0], {}
    if implementation is not None:
        options |= {"implementation": implementation, "chunk_size": 2}
    if implementation != "fft" and name != "long convolution":
        options["reset"] = np.arange(LENGTH)[None] == LENGTH - 1

    def loss(inputs):
        results = op(**inputs, **options)
        return sum((leaf.real.sum() + leaf.imag.sum()).astype(jnp.float32) for leaf in results), results

    return jax.grad(loss, has_aux=True)(inputs)


def dtypes(name, implementation, real, states):
    """Return the dtypes of output and last state, and check those of the gradient, for inputs and a state of these."""
    complex_ = np.result_type(states, np.complex64)

    def shape(key, value):
        dtype = complex_ if np.iscomplexobj(value) else states if key in STATES else real
        return jax.ShapeDtypeStruct(value.shape, dtype)

    inputs = {key: shape(key, value) for key, value in CASES[name][2].items()}
    gradient, (output, state) = jax.eval_shape(functools.partial(differentiated, name, implementation), inputs)
    assert {key: leaf.dtype for key, leaf in gradient.items()} == {key: leaf.dtype for key, leaf in inputs.items()}
    return output.dtype, state.dtype


def expected(name, real, states):
    """A complex system has a complex state; its output is complex where the input is."""
    inputs, complex_ = CASES[name][2], np.result_type(states, np.complex64)
    output = complex_ if np.iscomplexobj(inputs["x" if "x" in inputs else "q"]) else real
    return output, complex_ if any(map(np.iscomplexobj, inputs.values())) else states


@every_form
def test_op_keeps_dtypes_in_every_format(name, implementation):
    with jax.numpy_dtype_promotion("strict"):
        for real in (jnp.float32, jnp.bfloat16, jnp.float16):
            assert dtypes(name, implementation, real, np.float32) == expected(name, real, np.float32)
        with jax.enable_x64(True):
            for real in (np.float32, np.float64):
                assert dtypes(name, implementation, real, real) == expected(name, real, real)


def test_op_makes_no_nan_op_by_op():
    """The chunks with a triangular system; layers run others op by op in test_number_formats.py."""
    name, implementation = "delta rule, scalar", "xla"
    inputs = jax.tree.map(jnp.asarray, CASES[name][2])
    with jax.disable_jit(), jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        for scale in (1, 0):
            results = differentiated(name, implementation, jax.tree.map(lambda leaf, scale=scale: scale * leaf, inputs))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
