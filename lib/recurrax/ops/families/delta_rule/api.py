"""Provide the public functions `delta_rule` and `delta_product` and their declarations."""

import dataclasses

from jaxtyping import Array, Float

from recurrax.ops import matrix_state
from recurrax.ops.families.delta_rule import pallas_tpu, reference, xla
from recurrax.ops.op import Implementation, Op
from recurrax.ops.pallas_tpu import calls
from recurrax.ops.summaries import Dense
from recurrax.types import ArrayLike, Reset


def delta_rule(
    q: Float[ArrayLike, "B T Hq K"],
    k: Float[ArrayLike, "B T H K"],
    v: Float[ArrayLike, "B T H V"],
    beta: Float[ArrayLike, "B T H"],
    log_decay: Float[ArrayLike, "B T H"] | Float[ArrayLike, "B T H K"] | None = None,
    state: Float[ArrayLike, "B H K V"] | None = None,
    *,
    scale: float | None = None,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T Hq V"], Float[Array, "B H K V"]]:
    """Run S = diag(e^{g_t}) S_{t-1}, S_t = S + b_t k_t (v_t - S^T k_t)^T, o_t = scale * S_t^T q_t.

    DeltaNet has no decay (arXiv 2406.06484), Gated DeltaNet one per head (2412.06464), and KDA one per channel
    (2510.26692). Along a key of length 1 the state is multiplied by 1 - b_t: it is stable for b_t in [0, 2] and changes
    its sign for b_t above 1. Keys are not normalised here; layers normalise them.

    Args:
      q: queries; Hq may be a multiple of H, and query head h reads state h // (Hq / H).
      k: keys.
      v: values.
      beta: fraction of the error that is corrected, in any floating-point dtype.
      log_decay: g <= 0, in nats per step: one per head, or one per head and key channel; None is no decay.
      state: S before the first step; None is zero.
      scale: factor of the outputs; None is K ** -0.5.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      chunk_size: tokens per chunk, rounded up to a power of two; None is a tuned default.
      implementation: "reference", "xla", "pallas_tpu", or None for the fastest where the program runs.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    The gradient recomputes intermediates: it stores the inputs and one state per block, of 256 tokens on a CPU and
    2,048 elsewhere. The kernel stores a state and the inverse of a triangular system per chunk of 128.

    Raises:
      ValueError: shapes or dtypes do not fit, a known log-decay is above 0, the chunk size is below 1, or the
        implementation is unknown.
    """
    return DELTA_RULE(
        implementation,
        **{"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay, "state": state},
        **{"reset": reset, "scale": scale, "chunk_size": chunk_size},
    )


def delta_product(
    q: Float[ArrayLike, "B T Hq K"],
    k: Float[ArrayLike, "B T R H K"],
    v: Float[ArrayLike, "B T R H V"],
    beta: Float[ArrayLike, "B T R H"],
    log_decay: Float[ArrayLike, "B T H"] | Float[ArrayLike, "B T H K"] | None = None,
    state: Float[ArrayLike, "B H K V"] | None = None,
    *,
    scale: float | None = None,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T Hq V"], Float[Array, "B H K V"]]:
    """Run S = diag(e^{g_t}) S_{t-1}, then R times S = S + b k (v - S^T k)^T, o_t = scale * S^T q_t.

    A product of R Householder matrices can rotate the state (arXiv 2502.10297): with b up to 2, R = 2 rotates a plane
    by any angle. Arguments, returns and errors are those of `delta_rule`; k, v and beta have an axis R after time, the
    steps of a token in order.
    """
    return DELTA_PRODUCT(
        implementation,
        **{"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay, "state": state},
        **{"reset": reset, "scale": scale, "chunk_size": chunk_size},
    )


def _draw(rng, sizes, variant, samplers):
    def more(keys):
        return {"beta": samplers.strength(rng, keys.shape[:-1])}

    return matrix_state.draw(rng, sizes, variant, samplers, more)


DELTA_RULE = Op(
    name="delta_rule",
    arguments={
        **{"v": "B T H V", "k": "B T H K", "beta": "B T H", "q": "B T Hq K", "log_decay": matrix_state.DECAY},
        **{"state": "? B H K V", "reset": "? B T"},
    },
    results=matrix_state.RESULTS,
    summary=Dense(),
    implementations={
        "pallas_tpu": Implementation(pallas_tpu.delta, ("tpu",), calls.supports, calls.on_a_known_tpu, interpret=True),
        "xla": Implementation(xla.delta),
        "reference": Implementation(reference.delta),
    },
    draw=_draw,
    sizes=matrix_state.SIZES,
    variants=matrix_state.VARIANTS,
    one_dtype=("q", "k", "v"),
    logarithms=("log_decay",),
    compute=matrix_state.compute,
)

DELTA_PRODUCT = dataclasses.replace(
    DELTA_RULE,
    name="delta_product",
    arguments={**DELTA_RULE.arguments, "v": "B T R H V", "k": "B T R H K", "beta": "B T R H"},
    sizes={**matrix_state.SIZES, "R": 2},
)
