"""Provide the public function `linear_attention` and its declaration."""

from jaxtyping import Array, Float

from recurrax.ops import matrix_state
from recurrax.ops.families.linear_attention import pallas_tpu, reference, xla
from recurrax.ops.families.linear_attention.factors import factors
from recurrax.ops.op import Implementation, Op
from recurrax.ops.pallas_tpu import calls
from recurrax.ops.summaries import EntryWise
from recurrax.types import ArrayLike, Reset


def linear_attention(
    q: Float[ArrayLike, "B T Hq K"],
    k: Float[ArrayLike, "B T H K"],
    v: Float[ArrayLike, "B T H V"],
    log_decay: Float[ArrayLike, "B T H"] | Float[ArrayLike, "B T H K"] | None = None,
    state: Float[ArrayLike, "B H K V"] | None = None,
    *,
    scale: float | None = None,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T Hq V"], Float[Array, "B H K V"]]:
    """Run S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T, o_t = scale * S_t^T q_t.

    Retention, Mamba-2's SSD, GLA, HGRN2 and the mLSTM's memory are this recurrence with different gates (arXiv
    2006.16236, 2307.08621, 2405.21060, 2312.06635, 2404.07904).

    Args:
      q: queries; Hq may be a multiple of H, and query head h reads state h // (Hq / H).
      k: keys.
      v: values.
      log_decay: g <= 0, in nats per step: one per head, or one per head and key channel; None is no decay.
      state: S before the first step; None is zero.
      scale: factor of the outputs; None is K ** -0.5.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      chunk_size: tokens per chunk, rounded up to a power of two; None is a tuned default.
      implementation: "reference", "xla", "pallas_tpu", or None for the fastest where the program runs.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    The gradient recomputes intermediates: it stores the inputs and one state per block, of 256 tokens on a CPU and
    2,048 elsewhere; of 128 tokens in the kernel.

    Raises:
      ValueError: shapes or dtypes do not fit, a known log-decay is above 0, the chunk size is below 1, or the
        implementation is unknown.
    """
    return LINEAR_ATTENTION(
        implementation,
        **{"q": q, "k": k, "v": v, "log_decay": log_decay, "state": state},
        **{"reset": reset, "scale": scale, "chunk_size": chunk_size},
    )


LINEAR_ATTENTION = Op(
    name="linear_attention",
    arguments={
        **{"v": "B T H V", "k": "B T H K", "q": "B T Hq K", "log_decay": matrix_state.DECAY},
        **{"state": "? B H K V", "reset": "? B T"},
    },
    results=matrix_state.RESULTS,
    summary=EntryWise(factors),
    implementations={
        "pallas_tpu": Implementation(pallas_tpu.attend, ("tpu",), calls.supports, calls.on_a_known_tpu, interpret=True),
        "xla": Implementation(xla.attend),
        "reference": Implementation(reference.attend),
    },
    draw=matrix_state.draw,
    sizes=matrix_state.SIZES,
    variants=matrix_state.VARIANTS,
    one_dtype=("q", "k", "v"),
    logarithms=("log_decay",),
    compute=matrix_state.compute,
)
