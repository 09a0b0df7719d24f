"""Provide the public function `diagonal_scan`, its declaration and its gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from recurrax.ops import platforms, samplers
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.dtypes import common_dtype, wide_dtype
from recurrax.ops.families.diagonal import pallas_tpu, parallel, reference, sequential
from recurrax.ops.op import Choice, Implementation, Op
from recurrax.ops.pallas_tpu.kernels import refusal
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
      chunk_size: steps per chunk; None is about sqrt(T) for "chunked", 16 for "associative", 66 for "pallas_tpu".
      implementation: "reference", "sequential", "associative", "chunked", "pallas_tpu", or None for the fastest where
        the program runs.

    Returns:
      h in x's dtype (complex if a or h0 is), and the last state in float32 or complex64, or their doubles for double
      inputs. In float32 and complex64 the rounding error of each step is carried along (`double_word`; "sequential" has
      a float64 state instead), so that errors do not grow with T.

    The gradient is the same recurrence in reverse, d_t = g_t + a_{t+1} d_{t+1}, with da_t = d_t h_{t-1}: it stores only
    a, h and h0 and is itself differentiable. "pallas_tpu" has a float32 state if a and x have half precision.

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
    narrow = jnp.issubdtype(dtype, jnp.floating)  # of complex arrays there are no narrow ones
    a, x = (v if narrow else v.astype(dtype) for v in (a, x))
    flat = (
        a.reshape((-1,) if a.shape == tuple(inner) else (batch, length, -1)),
        x.reshape(batch, length, -1),
        h0.astype(dtype).reshape(batch, -1),
    )
    form = _Form(choice, given["reverse"], given["chunk_size"], x.dtype, out_dtype)
    h, h_last = _scan(form, *flat, reset)
    return h.reshape(x.shape), h_last.reshape(batch, *inner)


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
    step costs a launch or a pipeline drain, so few steps on many chunks are faster; on a TPU doubling is the fastest of
    these forms, by its compiler's estimate (docs/accelerators.md).
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
        a = _keep(_at_all_times(a, x), reset)
        if shifted:
            a = _shift(a, jnp.ones_like(a[:, 0]), reverse)
            reset = None if reset is None else _shift(reset, jnp.zeros_like(reset[:, 0]), reverse)
        return scan(a, x, h0, reset, reverse=reverse, chunk_size=chunk_size)

    return _widened(run)


def _widened(scan):
    """Return the scan of inputs that are converted to the state's dtype first, with h in each of `dtypes`."""

    def run(a, x, h0, reset, *, dtypes, **options):
        h, last = scan(a.astype(h0.dtype), x.astype(h0.dtype), h0, reset, **options)
        return *(h.astype(dtype) for dtype in dtypes), last

    return run


def _at_all_times(a, x):
    return jnp.broadcast_to(jnp.expand_dims(a, tuple(range(3 - a.ndim))), x.shape)


def _kernel(a, x, h0, reset, *, shifted, interpret=False, **options):
    """Run the kernel; the adjoint alone, which higher derivatives need, is none of its tasks."""
    if shifted:
        return _ADJOINT(a, x, h0, reset, shifted=True, **options)
    return pallas_tpu.scan(_at_all_times(a, x), x, h0, reset, interpret=interpret, **options)


_ADJOINT = _expanded(parallel.associative)


def _in_a_kernel(arguments):
    return refusal(arguments, "a", "x", dtypes=(jnp.float32, jnp.bfloat16, jnp.complex64))


def _in_long_sequences(arguments, platform):
    """Prefer the kernel where a block has work for its vector registers."""
    del platform
    return arguments.sizes["T"] >= 64


DIAGONAL_SCAN = Op(
    name="diagonal_scan",
    arguments={"x": "B T *D", "a": "B T *D | *D", "h0": "? B *D", "reset": "? B T"},
    results=("B T *D", "B *D"),
    summary=EntryWise(_factors),
    state="h0",
    heads="D",
    implementations={
        "pallas_tpu": Implementation(
            _kernel,
            platforms=("tpu",),
            supports=_in_a_kernel,
            preferred=_in_long_sequences,
            backward=pallas_tpu.gradients,
            interpret=True,
        ),
        # A TPU has no float64: its compiler makes slow pairs of float32 of it, and ends the process at complex128.
        "sequential": Implementation(
            _widened(sequential.scan), platforms=("cpu", "cuda", "rocm"), preferred=_on("cpu")
        ),
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
    x_dtype: jnp.dtype
    """The dtype of x and of its gradient."""
    dtype: jnp.dtype
    """The dtype of h. As a residual, h has the dtype of the state."""


# The scan and its adjoint are each other's gradient, so that derivatives of any order are scans.
#   _scan:     h_t = a_t     h_{t-1} + x_t,  from h0
#   _adjoint:  h_t = a_{t-1} h_{t-1} + x_t,  from h0 undecayed: the first state is h0 + x
# Both take a (B, T, N) or (N,), x (B, T, N) and h0 (B, N) in the dtype of the state, and `reset` sets a_t to zero.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _scan(form: _Form, a, x, h0, reset):
    return _run(form, a, x, h0, reset, (form.dtype,))


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _scan_and_states(form: _Form, a, x, h0, reset):
    """Return h, h in the dtype of the state, and the last state."""
    h, *states, h_last = _run(form, a, x, h0, reset, tuple(dict.fromkeys((form.dtype, h0.dtype))))
    return h, *(states or [h]), h_last


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _adjoint(form: _Form, a, x, h0, reset):
    return _run(form, a, x, h0, reset, (h0.dtype,), shifted=True)[0]


def _scan_forward(form, a, x, h0, reset):
    h, states, h_last = _scan_and_states(form, a, x, h0, reset)
    return (h, h_last), (a, states, h0, reset)


def _scan_backward(form, residuals, cotangents):
    gradients = _in_one_pass if any(form.choice.backward(name) for _, name in form.choice.names) else _gradients
    return *gradients(form, *residuals, *cotangents), None


def _scan_and_states_forward(form, a, x, h0, reset):
    h, states, h_last = _scan_and_states(form, a, x, h0, reset)
    return (h, states, h_last), (a, states, h0, reset)


def _scan_and_states_backward(form, residuals, cotangents):
    g, g_of_states, g_last = cotangents
    return _scan_backward(form, residuals, (g + g_of_states, g_last))


def _gradients(form, a, h, h0, reset, g, g_last):
    """Return the gradients of a, x and h0: the adjoint, and a product with the states."""
    d = _adjoint(form._replace(reverse=not form.reverse, x_dtype=g.dtype), a, g, g_last, reset)
    da = _decay_gradient(a, d * _shift(h, h0, form.reverse), reset)
    first = -1 if form.reverse else 0
    a_first = (a[None] if a.ndim == 1 else a[:, first]).astype(d.dtype)
    dh0 = _keep(a_first * d[:, first], None if reset is None else reset[:, first])
    return da.astype(a.dtype), d.astype(form.x_dtype), dh0.astype(h0.dtype)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _in_one_pass(form, a, h, h0, reset, g, g_last):
    """Return `_gradients`, by its own kernel where the implementation has one."""

    def run(option, a, h, *arrays):
        name, interpreted = option
        backward = form.choice.backward(name)
        if backward is None:
            return _gradients(form, a, h, *arrays)
        da, dx, dh0 = backward(
            *(_at_all_times(a, h), h, *arrays),
            reverse=form.reverse,
            chunk_size=form.chunk_size,
            dtypes=(h.dtype if a.ndim == 1 else a.dtype, form.x_dtype),
            interpret=interpreted,
        )
        return _decay_gradient(a, da, reset).astype(a.dtype), dx, dh0

    return platforms.per_platform(run, form.choice.forms(), a, h, h0, reset, g, g_last)


def _in_one_pass_forward(form, *arrays):
    return _in_one_pass(form, *arrays), arrays


def _in_one_pass_backward(form, arrays, cotangents):
    a, h, h0, reset, g, g_last = arrays
    pullback = jax.vjp(lambda a, h, h0, *g: _gradients(form, a, h, h0, reset, *g), a, h, h0, g, g_last)[1]
    da, dh, dh0, dg, dg_last = pullback(cotangents)
    return da, dh, dh0, None, dg, dg_last


def _adjoint_forward(form, a, x, h0, reset):
    h = _adjoint(form, a, x, h0, reset)
    return h, (a, h, reset)


def _adjoint_backward(form, residuals, g):
    a, h, reset = residuals
    own = form._replace(reverse=not form.reverse, x_dtype=g.dtype, dtype=g.dtype)
    d, _ = _scan(own, a, g, jnp.zeros_like(g[:, 0]), reset)
    # a_t leads from h_t to the next state in this direction, whose cotangent is d one step later, 0 after the last.
    da = _decay_gradient(a, h * _shift(d, jnp.zeros_like(d[:, 0]), not form.reverse), reset)
    return da.astype(a.dtype), d.astype(form.x_dtype), d[:, -1 if form.reverse else 0], None


_scan.defvjp(_scan_forward, _scan_backward)
_scan_and_states.defvjp(_scan_and_states_forward, _scan_and_states_backward)
_adjoint.defvjp(_adjoint_forward, _adjoint_backward)
_in_one_pass.defvjp(_in_one_pass_forward, _in_one_pass_backward)


# Jitted so that calls outside of jit compile once per shape: an eager loop is recompiled at each call.
@functools.partial(jax.jit, static_argnames=("form", "dtypes", "shifted"))
def _run(form, a, x, h0, reset, dtypes, *, shifted=False):
    """Return h in each of `dtypes` and the last state, by the implementation of the platform.

    The branch is here, inside the backward pass, not around it.
    """
    arrays = {"a": a, "x": x, "h0": h0, "reset": reset}
    return form.choice(arrays, reverse=form.reverse, chunk_size=form.chunk_size, shifted=shifted, dtypes=dtypes)


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
