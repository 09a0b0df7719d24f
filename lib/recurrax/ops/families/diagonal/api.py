"""Provide `diagonal_scan` and its gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from recurrax.ops import dispatch, time_sharding
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.dtypes import common_dtype, wide_dtype
from recurrax.ops.families.diagonal import parallel, reference, sequential
from recurrax.ops.sharding import sharded
from recurrax.types import ArrayLike, Reset

IMPLEMENTATIONS = ("reference", "sequential", "associative", "chunked")
# On a CPU one memory-bound loop is faster than every form that passes over the data more than once. On a GPU or TPU
# each step costs a launch or a pipeline drain, so few steps on many chunks are faster.
BEST = {"cpu": "sequential", "default": "chunked"}


def _letters(given):
    """Return the axes to shard of each argument; D's first axis is split like heads."""
    a = "B T H" if jnp.ndim(given["a"]) == jnp.ndim(given["x"]) else "H"
    return {"a": a, "x": "B T H", "h0": "B H", "reset": "B T"}


def _enter(op, given):
    """Return h before this time shard and after the last. A shard maps h to A h + U: for h0 = 1, x = 0 this is A."""
    final = op(**{**given, "h0": None})[1]
    product = op(**{**given, "x": jnp.zeros_like(given["x"]), "h0": jnp.ones_like(final)})[1]
    h0 = jnp.zeros_like(final) if given["h0"] is None else given["h0"]
    h0 = h0.astype(wide_dtype(h0, final))
    return time_sharding.fold((product, final), h0, reset=given["reset"], reverse=given["reverse"])


@sharded(_letters, results=("B T H", "B H"), state="h0", enter=_enter)
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
      implementation: "reference", "sequential", "associative", "chunked", or None for the fastest on this backend.

    Returns:
      h in x's dtype (complex if a or h0 is), and the last state in float32 or complex64, or their doubles for double
      inputs. In float32 and complex64 the rounding error of each step is carried along (`double_word`; "sequential" has
      a float64 state instead), so that errors do not grow with T.

    The gradient is the same recurrence in reverse, d_t = g_t + a_{t+1} d_{t+1}, with da_t = d_t h_{t-1}: it stores only
    a, h and h0 and is itself differentiable.

    Raises:
      ValueError: shapes do not fit, an axis is empty, the chunk size is below 1, or the implementation is unknown.
    """
    a, x = jnp.asarray(a), jnp.asarray(x)
    h0 = None if h0 is None else jnp.asarray(h0)
    _check(a, x, h0, reset, chunk_size)
    name = dispatch.choose(implementation, {name: name for name in IMPLEMENTATIONS}, BEST)

    batch, length, *inner = x.shape
    out_dtype = common_dtype(x, *(jnp.complex64 for v in (a, h0) if v is not None and jnp.iscomplexobj(v)))
    dtype = wide_dtype(a, x, h0)
    h0 = jnp.zeros((batch, *inner), dtype) if h0 is None else h0
    flat = (
        a.astype(dtype).reshape((-1,) if a.shape == tuple(inner) else (batch, length, -1)),
        x.astype(dtype).reshape(batch, length, -1),
        h0.astype(dtype).reshape(batch, -1),
    )
    h, h_last = _scan(_Form(name, reverse, chunk_size), *flat, reset)
    return h.reshape(x.shape).astype(out_dtype), h_last.reshape(batch, *inner)


def _check(a, x, h0, reset, chunk_size):
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"x must be (B, T, *D) with T >= 1, no axis empty, got shape {x.shape}")
    for name, value in (("a", a), ("x", x)):
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            raise ValueError(f"{name} must be real or complex floating point, got {value.dtype}")
    if a.shape not in (x.shape, x.shape[2:]):
        raise ValueError(f"a must be (B, T, *D) = {x.shape} or (*D,) = {x.shape[2:]}, got shape {a.shape}")
    if h0 is not None and h0.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"h0 must be (B, *D) = {(x.shape[0], *x.shape[2:])}, got shape {h0.shape}")
    if reset is not None and (reset.shape != x.shape[:2] or reset.dtype != jnp.bool_):
        raise ValueError(f"reset must be boolean (B, T) = {x.shape[:2]}, got {reset.dtype} of shape {reset.shape}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")


class _Form(NamedTuple):
    """Static parameters of a scan, which select the code."""

    implementation: str
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
    if form.implementation == "sequential":
        return sequential.scan(a, x, h0, reset, reverse=form.reverse, shifted=shifted)
    # The other forms take decay factors (B, T, N) that include resets and the adjoint's shift, and the resets as well,
    # because a state that is not finite is dropped by a select, not by a product with zero.
    a = _keep(jnp.broadcast_to(jnp.expand_dims(a, tuple(range(3 - a.ndim))), x.shape), reset)
    if shifted:
        a = _shift(a, jnp.ones_like(a[:, 0]), form.reverse)
        reset = None if reset is None else _shift(reset, jnp.zeros_like(reset[:, 0]), form.reverse)
    scans = {"reference": reference.scan, "associative": parallel.associative, "chunked": parallel.chunked}
    return scans[form.implementation](a, x, h0, reset, reverse=form.reverse, chunk_size=form.chunk_size)


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
