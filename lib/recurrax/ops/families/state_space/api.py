"""Provide the public function `state_space` and its declaration."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from recurrax.ops import samplers
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.state_space import contained, powers, reference
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import Fold
from recurrax.types import ArrayLike, Reset


def state_space(
    x: Float[ArrayLike, "B T D"],
    a: Inexact[ArrayLike, "D N"] | Float[ArrayLike, "D N N"],
    b: Inexact[ArrayLike, "D N"],
    c: Inexact[ArrayLike, "D M N"],
    state: Inexact[ArrayLike, "B D N"] | None = None,
    *,
    reset: Reset | None = None,
    kernel: Callable[[int], Float[Array, "D M T"]] | None = None,
    chunk_size: int = 64,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D M"], Inexact[Array, "B D N"]]:
    """Run h_t = A h_{t-1} + b x_t, y_t = Re(c h_t), with N states h per channel; return all y and the last h.

    A does not depend on time. Only one state per chunk is ever in memory.

    Args:
      x: inputs, one number per channel.
      a: log A of diagonal matrices A (D, N), real or complex; or A - I of dense matrices A (D, N, N), real. Both forms
        keep the precision of slow modes, which A near the identity would lose.
      b: input vectors, which write to the state.
      c: M output rows, which read from the state.
      state: h before the first step; None is zero.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      kernel: function T -> c A^t b for t < T, if the caller has a better way than powers of A; "fft" calls it.
      chunk_size: tokens per chunk, rounded up to a power of two.
      implementation: "chunked" uses the first taps of the kernel within a chunk and states between chunks. "fft" uses
        the whole kernel by FFT, with the rounding errors of `long_convolution`; it supports no `state`, no `reset` and
        no mesh that splits the sequence. "reference" is one step after the other. None is "fft" if it supports the
        arguments and there is more than one chunk, otherwise "chunked".

    Returns:
      y in x's dtype, and the last state in float32 or complex64 (doubles for doubles), the dtype in which the op
      computes. If a, b and c are all NumPy arrays, the powers of A are computed in float64 at trace time.

    Raises:
      ValueError: shapes or dtypes do not fit, the chunk size is below 1, the implementation is unknown, or it is "fft"
        with a state, resets or a sequence that a mesh splits.
    """
    arrays = {"x": x, "a": a, "b": b, "c": c, "state": state, "reset": reset, "taps": None}
    arguments = STATE_SPACE.checked({**arrays, "chunk_size": chunk_size})
    choice = STATE_SPACE.choose(implementation, arguments)
    # `kernel` may close over tracers of this trace: it is called here, not inside a shard_map.
    if kernel is not None and choice.includes("fft"):
        arguments = STATE_SPACE.checked({**arguments.values, "taps": kernel(x.shape[1])})
    return STATE_SPACE.run(choice, arguments)


def _check(arguments):
    x, a, b, c, state = (arguments[name] for name in ("x", "a", "b", "c", "state"))
    if a.ndim == 3 and any(map(jnp.iscomplexobj, (a, b, c))):
        raise ValueError("a, b and c of dense matrices must be real")
    if state is not None and jnp.iscomplexobj(state) and not any(map(jnp.iscomplexobj, (a, b, c))):
        raise ValueError("state must be real where a, b and c are")


def _compute(choice, given):
    """Run the implementation on the system, inputs and a state in the dtypes in which the op computes."""
    x, state, reset = given["x"], given["state"], given["reset"]
    a, b, c = (given[name] for name in "abc")
    real = _dtype(x, a, b, c)
    is_complex = any(map(jnp.iscomplexobj, (a, b, c)))
    dtype = wide_dtype(real, jnp.complex64) if is_complex else real
    h = jnp.zeros((x.shape[0], *b.shape), dtype) if state is None else state.astype(dtype)
    size = 1 << (min(given["chunk_size"], x.shape[1]) - 1).bit_length()
    arrays = {"x": x.astype(real), "system": (a, b, c), "h": h, "reset": reset, "taps": given["taps"]}
    y, h = choice(arrays, size=size)
    return y.astype(x.dtype), h


def _dtype(x, *system):
    """Return the real dtype in which the op computes, at least float32."""
    return wide_dtype(x, *(value.real for value in system if not isinstance(value, np.ndarray)))


def _summarise(run, given, state):
    """Return the last state from zero; a shard of T tokens maps h to A^T h plus it."""
    x, a, b, c = (given[name] for name in "xabc")
    written = run({**given, state: None})[1]
    power = jnp.asarray(powers.system(a, b, c, _dtype(x, a, b, c)).a.power(x.shape[1]), written.dtype)

    def step(written, h):
        if a.ndim == 2:
            return jnp.exp(power)[None] * h + written
        # power is A^T - I
        return h + jnp.einsum("dmn,bdn->bdm", power, h, precision=lax.Precision.HIGHEST) + written

    return written, step


def _without_states(arguments):
    """Support sequences that start from zero and are not cut."""
    if arguments["state"] is not None:
        return "does not support a state"
    if arguments["reset"] is not None:
        return "does not support resets"
    return "does not support a sequence that a mesh splits" if arguments.splits_time else None


def _several_chunks(arguments, platform):
    del platform
    return arguments.sizes["T"] > arguments["chunk_size"]


def _draw(rng, sizes, variant, samplers_):
    b, t, d, m, n = (sizes[letter] for letter in "BTDMN")
    is_complex = variant == "complex"
    a = samplers_.log_decay(rng, (d, n))
    if is_complex:
        a = a + 1j * rng.uniform(0, 1.5, (d, n))
    if variant == "dense":
        # Eigenvalues below 1 whatever n and T, and eigenvectors that are not orthogonal, so that no A is symmetric.
        vectors = np.eye(n) + 0.3 / np.sqrt(n) * rng.standard_normal((d, n, n))
        a = vectors * np.expm1(a)[:, None] @ np.linalg.inv(vectors)
    shapes = {"b": (d, n), "c": (d, m, n), "state": (b, d, n)}
    system = {name: samplers.normal(rng, *shape, complex=is_complex) for name, shape in shapes.items()}
    return {"x": rng.standard_normal((b, t, d)), "a": a, **system}


STATE_SPACE = Op(
    name="state_space",
    arguments={
        **{"x": "B T D", "b": "D N", "a": "D N | D N N", "c": "D M N", "state": "? B D N", "reset": "? B T"},
        "taps": "? D M T",
    },
    results=("B T D M", "B D N"),
    summary=Fold(_summarise),
    heads="D",
    implementations={
        "fft": Implementation(contained.by_fft, supports=_without_states, preferred=_several_chunks),
        "chunked": Implementation(contained.chunked),
        "reference": Implementation(reference.scan),
    },
    draw=_draw,
    sizes={"B": 2, "T": 24, "D": 4, "M": 2, "N": 4},
    variants=("real", "complex", "dense"),
    complex=("a", "b", "c", "state"),
    constants=("a", "b", "c"),
    compute=_compute,
    check=_check,
)
