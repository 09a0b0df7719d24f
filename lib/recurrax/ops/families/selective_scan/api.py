"""Provide the public function `selective_scan` and its declaration."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.selective_scan import chunked, pallas_tpu, reference
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import EntryWise
from recurrax.types import ArrayLike, Reset


def selective_scan(
    x: Float[ArrayLike, "B T E"],
    dt: Float[ArrayLike, "B T E"],
    a: Float[ArrayLike, "E N"],
    b: Float[ArrayLike, "B T N"],
    c: Float[ArrayLike, "B T N"],
    state: Float[ArrayLike, "B E N"] | None = None,
    *,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T E"], Float[Array, "B E N"]]:
    """Run h_t = e^{dt_t a} h_{t-1} + (dt_t x_t) b_t^T, y_t = h_t c_t; return all y and the last h.

    This is Mamba's recurrence (arXiv 2312.00752): N states for each of the E channels, with input-dependent decay. At
    most one chunk's states are in memory at a time, also in the gradient, which stores one state per chunk.

    Args:
      x: inputs.
      dt: step sizes, at least 0.
      a: decay rates, at most 0.
      b: input vectors, which write to the states.
      c: output vectors, which read from the states.
      state: h before the first step; None is zero.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      chunk_size: steps per chunk; None is 16 on a CPU and 128 elsewhere.
      implementation: "reference", "chunked", "pallas_tpu", or None for the fastest where the program runs.

    Returns:
      y in x's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    Raises:
      ValueError: shapes do not fit, the chunk size is below 1, or the implementation is unknown.
    """
    arrays = {"x": x, "dt": dt, "a": a, "b": b, "c": c, "state": state, "reset": reset}
    return SELECTIVE_SCAN(implementation, **arrays, chunk_size=chunk_size)


def _compute(choice, given):
    arrays = dict(given)
    chunk_size, x, a, state = arrays.pop("chunk_size"), given["x"], given["a"], given["state"]
    dtype = wide_dtype(x, given["dt"], a)
    arrays["state"] = jnp.zeros((x.shape[0], *a.shape), dtype) if state is None else state.astype(dtype)
    return choice(arrays, chunk_size=chunk_size)


def _factors(run, given, state):
    """Return (e^{a (dt_1 + ... + dt_T)}, u), u the last state from zero."""
    written = run({**given, state: None})[1]
    total = given["dt"].sum(1, dtype=written.dtype)
    return jnp.exp(total[..., None] * given["a"][None].astype(written.dtype)), written


def _draw(rng, sizes, variant, samplers):
    """Draw decays a dt as the log-decays of other ops."""
    del variant
    b, t, e, n = (sizes[letter] for letter in "BTEN")
    return {
        "x": rng.standard_normal((b, t, e)),
        "dt": -samplers.log_decay(rng, (b, t, e)),
        "a": -np.exp(rng.uniform(-1, 1, (e, n))),
        "b": rng.standard_normal((b, t, n)),
        "c": rng.standard_normal((b, t, n)),
        "state": rng.standard_normal((b, e, n)),
    }


SELECTIVE_SCAN = Op(
    name="selective_scan",
    arguments={
        **{"x": "B T E", "a": "E N", "dt": "B T E", "b": "B T N", "c": "B T N"},
        **{"state": "? B E N", "reset": "? B T"},
    },
    results=("B T E", "B E N"),
    summary=EntryWise(_factors),
    heads="E",
    implementations={
        "pallas_tpu": Implementation(
            pallas_tpu.scan, ("tpu",), pallas_tpu.supports, pallas_tpu.on_a_known_tpu, interpret=True
        ),
        "chunked": Implementation(chunked.scan),
        "reference": Implementation(reference.scan),
    },
    draw=_draw,
    sizes={"B": 2, "T": 24, "E": 4, "N": 3},
    compute=_compute,
)
