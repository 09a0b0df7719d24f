"""Provide the public function `diagonal_scan`, its declaration and its gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from recurrax.ops import samplers
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.dtypes import common_dtype, wide_dtype
from recurrax.ops.families.diagonal import parallel, reference, sequential
from recurrax.ops.op import Choice, Implementation, Op
from recurrax.ops.summaries import EntryWise
from recurrax.types import ArrayLike, Reset


def diagonal_scan(
    a: Inexact[ArrayLike, "..."],
    x: Inexact[ArrayLike, "B T *D"],
    h0: Inexact[ArrayLike, "B *D"] | None = None,
    *,
    reset: Reset | None = None,
    reverse: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Inexact[Array, "B T *D"], Inexact[Array, "B *D"]]:
    """Return all states h of h_t = a_t * h_{t-1} + x_t over axis 1, and the last one.

    Args:
      a: decay factors, real or complex: (B, T, *D), or (*D,) if they do not depend on time.
      x: inputs, real or complex.
      h0: the state before the first step; None is zero.
      reset: True where a document starts: h_t = x_t, for any a_t and h_{t-1}.
      reverse: whether time runs backwards: h_t = a_t * h_{t+1} + x_t, h0 enters at the end and the last state is h_1.
      chunk_size: steps per chunk of the "chunked" implementation; None is about sqrt(T).
      implementation: "reference", "sequential", "associative", "chunked", or None for the fastest where the program
        runs.

    Returns:
      h in x's dtype (complex if a or h0 is), and the last state in float32 or complex64, or their doubles for double
      inputs. In float32 and complex64 the rounding error of each step is carried along (`double_word`; "sequential" has
      a float64 state instead), so that errors do not grow with T.

    The gradient is the same recurrence in reverse, d_t = g_t + a_{t+1} d_{t+1}, with da_t = d_t h_{t-1}: it stores only
    a, h and h0 and is itself differentiable.

    Raises:
      ValueError: shapes do not fit, an axis is empty, the chunk size is below 1, or the implementation is unknown.
    """
    return DIAGONAL_SCAN(implementation, x=x, a=a, h0=h0, reset=reset, reverse=reverse, chunk_size=chunk_size)


def _compute(choice, given):
    a, x, h0, reset = (given[name] for name in ("a", "x", "h0", "reset"))
    batch, length, *inner = x.shape
    out_dtype = common_dtype(x, *(jnp.complex64 for v in (a, h0) if v is not None and jnp.iscomplexobj(v)))
    dtype = wide_dtype(a, x, h0)
    h0 = jnp.zeros((batch, *inner), dtype) if h0 is None else h0
    flat = (
        a.astype(dtype).reshape((-1,) if a.shape == tuple(inner) else (batch, length, -1)),
        x.astype(dtype).reshape(batch, length, -1),
        h0.astype(dtype).reshape(batch, -1),
    )
    h, h_last = _scan(_Form(choice, given["reverse"], given["chunk_size"]), *flat, reset)
    return h.reshape(x.shape).astype(out_dtype), h_last.reshape(batch, *inner)


def _factors(run, given, state):
    """Return the product of the decay factors, which is the last state for x = 0 and a state of ones, and the state."""
    final = run({**given, state: None})[1]
    return run({**given, "x": jnp.zeros_like(given["x"]), state: jnp.ones_like(final)})[1], final


def _draw(rng, sizes, variant, samplers_):
    b, t, d = (sizes[letter] for letter in "BTD")
    is_complex = variant == "complex"
    a = np.exp(samplers_.log_decay(rng, (d,) if variant == "constant" else (b, t, d)))
    if is_complex:  # of any phase
        a = a * np.exp(2j * np.pi * rng.uniform(size=a.shape))
    return {
        "a": a,
        "x": samplers.normal(rng, b, t, d, complex=is_complex),
        "h0": samplers.normal(rng, b, d, complex=is_complex),
    }


def _on(preferring):
    """Return `preferred` of an implementation that is the fastest on one platform.

    On a CPU that is one memory-bound loop: every other form passes over the data more than once. On a GPU or TPU each
    step costs a launch or a pipeline drain, so few steps on many chunks are faster; on a TPU doubling is the fastest,
    by its compiler's estimate (docs/accelerators.md).
    """

    def preferred(arguments, platform):
        del arguments
        return platform == preferring

    return preferred


def _expanded(scan):
    """Return the scan for decay factors (B, T, N) that include resets and the adjoint's shift.

    It also gets the resets, because a state that is not finite is dropped by a select, not by a product with zero.
    """

    def run(a, x, h0, reset, *, reverse, chunk_size, shifted):
        a = _keep(jnp.broadcast_to(jnp.expand_dims(a, tuple(range(3 - a.ndim))), x.shape), reset)
        if shifted:
            a = _shift(a, jnp.ones_like(a[:, 0]), reverse)
            reset = None if reset is None else _shift(reset, jnp.zeros_like(reset[:, 0]), reverse)
        return scan(a, x, h0, reset, reverse=reverse, chunk_size=chunk_size)

    return run


DIAGONAL_SCAN = Op(
    name="diagonal_scan",
    arguments={"x": "B T *D", "a": "B T *D | *D", "h0": "? B *D", "reset": "? B T"},
    results=("B T *D", "B *D"),
    summary=EntryWise(_factors),
    state="h0",
    heads="D",
    implementations={
        # A TPU has no float64: its compiler makes slow pairs of float32 of it, and ends the process at complex128.
        "sequential": Implementation(sequential.scan, platforms=("cpu", "cuda", "rocm"), preferred=_on("cpu")),
        "associative": Implementation(_expanded(parallel.associative), preferred=_on("tpu")),
        "chunked": Implementation(_expanded(parallel.chunked)),
        "reference": Implementation(_expanded(reference.scan)),
    },
    draw=_draw,
    sizes={"B": 2, "T": 24, "D": 3},
    variants=("real", "complex", "constant"),
    complex=("a", "x", "h0"),
    compute=_compute,
)


class _Form(NamedTuple):
    """Static parameters of a scan, which select the code."""

    choice: Choice
    reverse: bool
    chunk_size: int | None


# The scan and its adjoint are each other's gradient, so that derivatives of any order are scans.
#   _scan:     h_t = a_t     h_{t-1} + x_t,  from h0
#   _adjoint:  h_t = a_{t-1} h_{t-1} + x_t,  from h0 undecayed: the first state is h0 + x
# Both take a (B, T, N) or (N,), x (B, T, N), h0 (B, N), all of one dtype, and `reset` sets a_t to zero.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _scan(form: _Form, a, x, h0, reset):
    return _run(form, a, x, h0, reset, shifted=False)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _adjoint(form: _Form, a, x, h0, reset):
    return _run(form, a, x, h0, reset, shifted=True)[0]


def _scan_forward(form, a, x, h0, reset):
    h, h_last = _scan(form, a, x, h0, reset)
    return (h, h_last), (a, h, h0, reset)


def _scan_backward(form, residuals, cotangents):
    a, h, h0, reset = residuals
    g, g_last = cotangents
    d = _adjoint(form._replace(reverse=not form.reverse), a, g, g_last, reset)
    da = _decay_gradient(a, d * _shift(h, h0, form.reverse), reset)
    first = -1 if form.reverse else 0
    a_first = a[None] if a.ndim == 1 else a[:, first]
    dh0 = _keep(a_first * d[:, first], None if reset is None else reset[:, first])
    return da, d, dh0, None


def _adjoint_forward(form, a, x, h0, reset):
    h = _adjoint(form, a, x, h0, reset)
    return h, (a, h, reset)


def _adjoint_backward(form, residuals, g):
    a, h, reset = residuals
    d, _ = _scan(form._replace(reverse=not form.reverse), a, g, jnp.zeros_like(g[:, 0]), reset)
    # a_t leads from h_t to the next state in this direction, whose cotangent is d one step later, 0 after the last.
    da = _decay_gradient(a, h * _shift(d, jnp.zeros_like(d[:, 0]), not form.reverse), reset)
    return da, d, d[:, -1 if form.reverse else 0], None


_scan.defvjp(_scan_forward, _scan_backward)
_adjoint.defvjp(_adjoint_forward, _adjoint_backward)


# Jitted so that calls outside of jit compile once per shape: an eager loop is recompiled at each call.
@functools.partial(jax.jit, static_argnames=("form", "shifted"))
def _run(form, a, x, h0, reset, *, shifted):
    """Run the implementation of the platform. The branch is here, inside the backward pass, not around it."""
    arrays = {"a": a, "x": x, "h0": h0, "reset": reset}
    return form.choice(arrays, reverse=form.reverse, chunk_size=form.chunk_size, shifted=shifted)


def _shift(h, first, reverse):
    """Return h delayed by one step in the direction of the scan, after `first`: (first, h_1, ..., h_{T-1})."""
    if reverse:
        return jnp.concatenate([h[:, 1:], first[:, None]], axis=1)
    return jnp.concatenate([first[:, None], h[:, :-1]], axis=1)


def _keep(value, reset):
    return value if reset is None else jnp.where(reset[..., None], jnp.zeros((), value.dtype), value)


def _decay_gradient(a, da, reset):
    """Return da with resets masked, summed over B and T if a does not depend on time."""
    da = _keep(da, reset)
    return da if a.ndim == 3 else _sum_rows(da.reshape(-1, a.shape[0]))


def _sum_rows(rows, block=128):
    """Sum over axis 0 in blocks: one running float32 sum over 10^5 rows would lose two decimal digits."""
    count = rows.shape[0]
    if count <= block:
        return rows.sum(0)
    blocks = jnp.pad(rows, ((0, -count % block), (0, 0))).reshape(-1, block, rows.shape[1])
    return _sum_rows(blocks.sum(1), block)
