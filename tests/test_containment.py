"""A number that is not finite stays in its document and behind its token, in every form of every op."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import matrix_ops
from mixer_cases import DIM
from recurrax import ops
from recurrax.mixers import RGLRU
from recurrax.models import Classifier, ClassifierConfig
from recurrax.projections import MixtureOfExperts
from train.objectives import NextToken

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

BATCH, LENGTH = 2, 24
BAD, BORDER = 9, 18  # the first row holds a bad number at BAD; both rows start a document at BORDER
RESET = np.zeros((BATCH, LENGTH), bool)
RESET[:, BORDER] = True
# Where nothing may depend on the bad number.
APART = np.ones((BATCH, LENGTH), bool)
APART[0, BAD:BORDER] = False


def rng():
    return np.random.default_rng(0)


def normal(*shape):
    return rng().standard_normal(shape).astype(np.float32)


def finite(array):
    """Return whether all numbers of a token are finite, (B, T)."""
    return np.isfinite(array).reshape(*array.shape[:2], -1).all(-1)


def spoilt(inputs, name, row=0):
    """Return the inputs with one bad number in this array: at BAD, or in the state of this row."""
    array = np.array(inputs[name])
    array.reshape(BATCH, -1)[row, 0 if name in ("state", "h0") else BAD * array[row, 0].size] = (
        np.nan if name in ("state", "log_decay") else np.inf
    )
    return {**inputs, name: array}


MATRIX = [
    (case, name)
    for case in matrix_ops.ONE_PER_OP
    for name in [*matrix_ops.draw(case, 1, batch=BATCH), "cotangent"]  # every argument, and what comes back
]


@functools.cache
def matrix_results(case, implementation):
    """Return a compiled function (inputs, cotangents) -> (o, state), gradients."""
    run = functools.partial(matrix_ops.evaluate, case, implementation=implementation, chunk_size=8)
    return lambda inputs, cotangents: jax.device_get(run(inputs, cotangents, jnp.asarray(RESET)))


KERNELS = [
    (case, form, name)
    for case, name in MATRIX
    for form, each in ops.OPS[matrix_ops.CASES[case][0]].implementations.items()
    if form != "reference"
]


@pytest.mark.parametrize(("case", "form", "name"), KERNELS)
def test_matrix_op_is_nonfinite_where_its_definition_is(case, form, name):
    """A matrix op is not finite where its definition is not."""
    inputs = matrix_ops.draw(case, LENGTH, batch=BATCH)
    d_o, d_state = (np.array(g) for g in matrix_ops.random_cotangents(inputs))
    if name == "cotangent":
        d_o[0, BAD] = np.nan
    else:
        inputs = spoilt(inputs, name)
        # A loss of what is finite: the definition's gradients are then those of the tokens apart.
        want = matrix_results(case, "reference")(inputs, (d_o, d_state))[0]
        d_o = np.where(finite(want[0])[..., None, None], d_o, 0)
    (want_o, want_state), want_gradients = matrix_results(case, "reference")(inputs, (d_o, d_state))
    (o, state), gradients = matrix_results(case, form)(inputs, (d_o, d_state))
    np.testing.assert_array_equal(finite(o), finite(want_o))
    assert finite(o)[APART].all() or name == "state"
    np.testing.assert_array_equal(np.isfinite(state), np.isfinite(want_state))
    good = finite(want_o)
    np.testing.assert_allclose(o[good], want_o[good], rtol=1e-5, atol=1e-5)
    for argument, gradient in gradients.items():
        want = want_gradients[argument]
        here = np.isfinite(want) & np.isfinite(gradient)
        np.testing.assert_allclose(gradient[here], want[here], rtol=1e-5, atol=2e-5, err_msg=argument)
        if argument != "state":
            assert finite(gradient)[finite(want)].all(), f"{argument}: NaN where the definition has none"
            if name == "cotangent":
                np.testing.assert_array_equal(finite(gradient), finite(want), err_msg=argument)


def vector_ops():
    """(op, implementation, inputs): ops of one number per channel, each in every form."""
    x, h0 = normal(BATCH, LENGTH, 3), normal(BATCH, 3)
    a = np.exp(-np.abs(normal(BATCH, LENGTH, 3)))
    for form in ("reference", "sequential", "associative", "chunked"):
        yield "diagonal_scan", form, {"a": a, "x": x, "h0": h0}
    rates = {"dt": np.abs(x), "a": -np.abs(normal(3, 2)), "b": normal(BATCH, LENGTH, 2), "c": normal(BATCH, LENGTH, 2)}
    for form in ("reference", "chunked"):
        yield "selective_scan", form, {"x": x, **rates, "state": normal(BATCH, 3, 2)}
    system = {"a": -np.abs(normal(3, 4)), "b": normal(3, 4), "c": normal(3, 2, 4)}
    yield "state_space", "chunked", {"x": x, **system, "state": normal(BATCH, 3, 4)}
    yield "causal_conv1d", None, {"x": x, "kernel": normal(4, 3), "state": normal(BATCH, 3, 3)}


VECTOR = {f"{op}, {form}": (op, form, inputs) for op, form, inputs in vector_ops()}


@pytest.mark.parametrize("case", VECTOR)
def test_vector_op_keeps_bad_numbers_to_their_document(case):
    op, form, inputs = VECTOR[case]
    options = {} if form is None else {"implementation": form}
    options |= {"chunk_size": 4} if form in ("associative", "chunked") else {}

    @jax.jit
    def run(inputs, reset, weight):
        def loss(inputs):
            y, last = getattr(ops, op)(**inputs, reset=reset, **options)
            weights = weight.reshape(*weight.shape, *(1,) * (y.ndim - 2))
            return jnp.where(weights, y, 0).sum() + last[1].sum(), (y, last)

        return jax.value_and_grad(loss, has_aux=True)(inputs)

    (_, (want, want_last)), want_gradients = run(inputs, RESET, APART)
    (_, (y, last)), gradients = run(spoilt(inputs, "x"), RESET, APART)
    assert not finite(y)[0, BAD]
    np.testing.assert_array_equal(y[APART], want[APART])
    np.testing.assert_array_equal(last, want_last)
    np.testing.assert_allclose(gradients["x"][APART], want_gradients["x"][APART], rtol=1e-5, atol=1e-6)
    # A reset forgets a state whatever it holds.
    name = "h0" if op == "diagonal_scan" else "state"
    (_, (y, last)), gradients = run({**inputs, name: np.full_like(inputs[name], np.nan)}, RESET, APART)
    after = np.arange(LENGTH) >= BORDER
    np.testing.assert_array_equal(y[:, after], want[:, after])
    np.testing.assert_array_equal(last, want_last)
    np.testing.assert_allclose(gradients["x"][:, after], want_gradients["x"][:, after], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["state_space", "long_convolution"])
def test_fourier_transform_is_causal_for_bad_numbers(op):
    system = VECTOR["state_space, chunked"][2]
    x, taps = system["x"], 6

    @jax.jit
    def run(x, weight):
        def loss(x):
            if op == "state_space":
                y = ops.state_space(x, system["a"], system["b"], system["c"], implementation="fft")[0].sum(-1)
            else:
                y = ops.long_convolution(x, normal(3, taps))[0]
            return (weight * jnp.where(jnp.isfinite(y), y, 0)).sum(), y

        return jax.value_and_grad(loss, has_aux=True)(x)

    weight = np.ones_like(x)
    (_, want), gradient = run(x, weight)
    bad = x.copy()
    bad[0, BAD, 0] = np.inf
    (_, y), _ = run(bad, weight)
    reached = np.zeros(x.shape, bool)
    reached[0, BAD : None if op == "state_space" else BAD + taps, 0] = True
    np.testing.assert_array_equal(~np.isfinite(y), reached)
    np.testing.assert_allclose(y[~reached], want[~reached], atol=2e-5)
    # A cotangent goes back to the inputs before it, and to no later one.
    weight[0, BAD, 0] = np.nan
    (_, _), got = run(x, weight)
    reached = np.zeros(x.shape, bool)
    reached[0, 0 if op == "state_space" else BAD - taps + 1 : BAD + 1, 0] = True
    np.testing.assert_array_equal(~np.isfinite(got), reached)
    np.testing.assert_allclose(got[~reached], gradient[~reached], atol=2e-5)


def test_expert_layer_keeps_bad_numbers_to_their_token():
    layer = MixtureOfExperts(num_experts=4).layer(DIM)
    x = normal(BATCH, LENGTH, DIM)
    params = layer.init(jax.random.key(0), jnp.asarray(x))
    bad = x.copy()
    bad[0, BAD, 1] = np.inf
    (want, _), (y, _) = (layer.apply(params, jnp.asarray(inputs)) for inputs in (x, bad))
    there = np.zeros((BATCH, LENGTH), bool)
    there[0, BAD] = True
    np.testing.assert_array_equal(~finite(y), there)
    np.testing.assert_array_equal(np.asarray(y)[~there], np.asarray(want)[~there])


def test_nonfinite_output_has_a_nonfinite_gradient():
    """The loss of a non-finite output has a non-finite gradient."""
    inputs = spoilt(matrix_ops.draw("delta rule, scalar", LENGTH, batch=BATCH), "v")
    cotangents = matrix_ops.random_cotangents(inputs)
    _, gradients = matrix_results("delta rule, scalar", "xla")(inputs, cotangents)
    np.testing.assert_array_equal(finite(gradients["q"]), APART)


def test_classifier_mask_leaves_out_bad_steps():
    config = ClassifierConfig(num_classes=3, dim=DIM, num_layers=1, pattern=(RGLRU(num_heads=2),))
    model, x = Classifier(config), normal(BATCH, LENGTH, DIM)
    params = jax.jit(model.init)(jax.random.key(0), x)
    mask = (np.arange(LENGTH) < BAD).astype(np.float32)[None].repeat(BATCH, 0)
    bad = x.copy()
    bad[0, BAD, 1] = np.inf
    want, y = (model.apply(params, inputs, mask=mask)[0] for inputs in (x, bad))
    np.testing.assert_array_equal(y, want)


def test_loss_leaves_out_targets_of_weight_zero():
    """A target of weight zero is left out of the loss."""
    logits = np.zeros((1, 2, 4), np.float32)
    logits[0, 1] = np.nan
    model = types.SimpleNamespace(apply=lambda *_, **__: (jnp.asarray(logits), None))
    batch = {"inputs": None, "reset": None, "targets": np.zeros((1, 2), np.int32), "weights": np.float32([[1, 0]])}
    loss, weight, *_ = NextToken().loss(model, None, batch)
    np.testing.assert_allclose((loss, weight), (np.log(4), 1), rtol=1e-6)
