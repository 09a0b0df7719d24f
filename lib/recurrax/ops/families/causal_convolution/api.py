"""Provide the short causal convolution that most published blocks apply before their recurrence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.causal_convolution import pallas_tpu, taps
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import LastTokens
from recurrax.types import ArrayLike, Reset


def causal_conv1d(
    x: Float[ArrayLike, "B T D"],
    kernel: Float[ArrayLike, "W D"],
    bias: Float[ArrayLike, " D"] | None = None,
    state: Float[ArrayLike, "B W-1 D"] | None = None,
    *,
    reset: Reset | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B W-1 D"]]:
    """Return y_t = bias + sum_i kernel_i * x_{t-(W-1)+i}, depthwise; kernel's last row applies to the current input.

    Args:
      x: inputs.
      kernel: one filter of width W per channel.
      bias: added to every output; None is zero.
      state: the last W-1 inputs before x; None is zeros.
      reset: True where a document starts; no filter crosses that border, in the state either.
      implementation: "taps", one fused multiply-add per tap, "reference", one step after the other, "pallas_tpu", a
        kernel for TPUs, or None for the best on the program's platform.

    Returns:
      y in x's dtype (sums are float32 at least), and the last W-1 inputs of the current document (float32 at least).

    Raises:
      ValueError: shapes or dtypes do not fit, an axis is empty, or the implementation is unknown.
    """
    return CAUSAL_CONV1D(implementation, x=x, kernel=kernel, bias=bias, state=state, reset=reset)


def _compute(choice, given):
    state = _empty(given) if given["state"] is None else given["state"]
    dtype = wide_dtype(given["x"], given["kernel"])
    parameters = {name: None if given[name] is None else given[name].astype(dtype) for name in ("kernel", "bias")}
    return choice({**given, **parameters, "state": state.astype(dtype)})


def _tokens(given):
    return given["x"].astype(wide_dtype(given["x"], given["kernel"]))


def _empty(given):
    """Return the W - 1 inputs before the first one: zeros."""
    x, width = given["x"], given["kernel"].shape[0]
    return jnp.zeros((x.shape[0], width - 1, x.shape[2]), wide_dtype(x, given["kernel"]))


def _draw(rng, sizes, variant, samplers):
    del variant, samplers
    b, t, d, w = (sizes[letter] for letter in "BTDW")
    shapes = {"x": (b, t, d), "kernel": (w, d), "bias": (d,), "state": (b, w - 1, d)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


CAUSAL_CONV1D = Op(
    name="causal_conv1d",
    arguments={"x": "B T D", "kernel": "W D", "bias": "? D", "state": "? B W-1 D", "reset": "? B T"},
    results=("B T D", "B W-1 D"),
    summary=LastTokens(_tokens, _empty),
    heads="D",
    implementations={
        "pallas_tpu": Implementation(
            pallas_tpu.convolve, ("tpu",), pallas_tpu.supports, pallas_tpu.on_a_known_tpu, interpret=True
        ),
        "taps": Implementation(taps.convolve),
        "reference": Implementation(taps.reference),
    },
    draw=_draw,
    sizes={"B": 2, "T": 24, "D": 4, "W": 4},
    compute=_compute,
)
