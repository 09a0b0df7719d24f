"""What the tests of the matrix-state ops share: their table, inputs, and one call that gives values and gradients."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from eval import oracles
from oracles.common import wide
from recurrax import ops
from support.numerics import relative_error

# (op, gates): None, one per head, one per key channel.
CASES = {
    "linear attention": ("linear_attention", None),
    "linear attention, scalar": ("linear_attention", "scalar"),
    "linear attention, channel": ("linear_attention", "channel"),
    "delta rule": ("delta_rule", None),
    "delta rule, scalar": ("delta_rule", "scalar"),
    "delta rule, channel": ("delta_rule", "channel"),
    "delta product": ("delta_product", "scalar"),
    "delta product, channel": ("delta_product", "channel"),
    "dplr": ("dplr_rule", None),
    "dplr, scalar": ("dplr_rule", "scalar"),
    "dplr, channel": ("dplr_rule", "channel"),
}
ONE_PER_OP = ("linear attention, channel", "delta rule, scalar", "delta product", "dplr, channel")
IMPLEMENTATIONS = tuple(
    name for name, each in ops.OPS["linear_attention"].implementations.items() if not each.interpret
)
STEPS = 2  # of delta_product


def mild(rng, shape):
    """Gates around -0.1 per step."""
    return -0.1 * np.exp(rng.standard_normal(shape))


def draw(case, length, *, batch=1, heads=2, queries=1, key=8, value=8, gates=mild, seed=0, dtype=np.float32):
    """Inputs by name, with an initial state; keys of length 1, as layers make them."""
    op, decay = CASES[case]
    rng = np.random.default_rng(seed)
    times = (batch, length)
    several = (*times, STEPS, heads) if op == "delta_product" else (*times, heads)

    def unit(*shape):
        x = rng.standard_normal(shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    x = {
        "q": rng.standard_normal((*times, queries * heads, key)),
        "k": unit(*several, key),
        "v": rng.standard_normal((*several, value)),
    }
    if op.startswith("delta"):
        x["beta"] = rng.uniform(0, 1, several)
    if op == "dplr_rule":
        x["a"] = unit(*times, heads, key)
        x["b"] = -x["a"] * rng.uniform(0, 1, (*times, heads, 1))
    if decay is not None:
        x["log_decay"] = gates(rng, (*times, heads) if decay == "scalar" else (*times, heads, key))
    x["state"] = rng.standard_normal((batch, heads, key, value))
    # In the dtype first: the oracle is to get the rounded numbers that the op gets. States are never rounded.
    return {n: np.asarray(jnp.asarray(v, np.float32 if n == "state" else dtype)) for n, v in x.items()}


def call(case, inputs, **options):
    """The op of this case."""
    op, _ = CASES[case]
    arguments = {"log_decay": None, **inputs} if op == "dplr_rule" else inputs
    return getattr(ops, op)(**arguments, **options)


@functools.partial(jax.jit, static_argnames=("case", "implementation", "chunk_size", "scale"))
def evaluate(case, inputs, cotangents, reset=None, **options):
    """(o, state) and the gradients by name."""
    outputs, pullback = jax.vjp(lambda inputs: call(case, inputs, reset=reset, **options), inputs)
    return outputs, pullback(cotangents)[0]


def random_cotangents(inputs, seed=1):
    """Return cotangents of the outputs and of the last state."""
    rng = np.random.default_rng(seed)
    q, v = inputs["q"], inputs["v"]
    d_o = jnp.asarray(rng.standard_normal((*q.shape[:3], v.shape[-1])), q.dtype)
    return d_o, jnp.asarray(rng.standard_normal(inputs["state"].shape), inputs["state"].dtype)


def truth(case, inputs, cotangents=None, reset=None, scale=None):
    """What `evaluate` should give, in float64; no gradients without cotangents."""
    op, _ = CASES[case]
    inputs = {name: wide(array) for name, array in inputs.items()}
    cotangents = None if cotangents is None else tuple(map(wide, cotangents))
    o, state, gradients = getattr(oracles, op)({**inputs, "reset": reset}, scale, cotangents)
    return (o, state), gradients


def check(case, inputs, *, outputs=2e-6, gradients=1e-5, reset=None, **options):
    """Asserts that all values and gradients are within these bounds of the oracle's; returns the op's results."""
    cotangents = random_cotangents(inputs)
    got, got_gradients = evaluate(case, inputs, cotangents, reset, **options)
    want, want_gradients = truth(case, inputs, cotangents, reset, options.get("scale"))
    errors = {name: relative_error(g, w) for name, g, w in zip(("o", "S"), got, want, strict=True)}
    assert max(errors.values()) <= outputs, errors
    assert got_gradients.keys() == want_gradients.keys()
    errors = {name: relative_error(got_gradients[name], want_gradients[name]) for name in got_gradients}
    assert max(errors.values()) <= gradients, errors
    return got, got_gradients


@contextlib.contextmanager
def ops_by_definition():
    """Ops take their step-by-step references: programs of a tenth of the size.

    That all forms of an op agree, in every gradient, is tested op by op. Here values are those of the default forms;
    what is differentiated, split and stacked is the layers around them.
    """
    with ops.implementations(
        delta_rule="reference",
        delta_product="reference",
        dplr_rule="reference",
        linear_attention="reference",
        selective_scan="reference",
    ):
        yield
