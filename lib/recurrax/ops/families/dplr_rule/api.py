"""Provide the public function `dplr_rule` and its declaration."""

from jaxtyping import Array, Float

from recurrax.ops import matrix_state
from recurrax.ops.families.dplr_rule import reference, xla
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import Dense
from recurrax.types import ArrayLike, Reset


def dplr_rule(
    q: Float[ArrayLike, "B T Hq K"],
    k: Float[ArrayLike, "B T H K"],
    v: Float[ArrayLike, "B T H V"],
    a: Float[ArrayLike, "B T H K"],
    b: Float[ArrayLike, "B T H K"],
    log_decay: Float[ArrayLike, "B T H"] | Float[ArrayLike, "B T H K"] | None = None,
    state: Float[ArrayLike, "B H K V"] | None = None,
    *,
    scale: float | None = None,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T Hq V"], Float[Array, "B H K V"]]:
    """Run S_t = diag(e^{g_t}) S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T, o_t = scale * S_t^T q_t.

    RWKV-7 is this rule with a = -kappa and b = kappa * eta for a key kappa of length 1 (arXiv 2503.14456). a reads the
    state before the decay. The caller has to ensure that the transition is stable: it is not checked.

    Args:
      q: queries; Hq may be a multiple of H, and query head h reads state h // (Hq / H).
      k: keys.
      v: values.
      a: vectors that read from the state.
      b: vectors along which the result is written back.
      log_decay: g <= 0, in nats per step: one per head, or one per head and key channel; None is no decay.
      state: S before the first step; None is zero.
      scale: factor of the outputs; None is K ** -0.5.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      chunk_size: tokens per chunk of the "xla" implementation, rounded up to a power of two; None is a tuned default.
      implementation: "reference", "xla", or None for the fastest where the program runs.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    The gradient recomputes intermediates: it stores the inputs and one state per block, of 128 tokens on a CPU and
    1,024 elsewhere.

    Raises:
      ValueError: shapes or dtypes do not fit, a known log-decay is above 0, the chunk size is below 1, or the
        implementation is unknown.
    """
    return DPLR_RULE(
        implementation,
        **{"q": q, "k": k, "v": v, "a": a, "b": b, "log_decay": log_decay, "state": state},
        **{"reset": reset, "scale": scale, "chunk_size": chunk_size},
    )


def _draw(rng, sizes, variant, samplers):
    """Draw a and b as RWKV-7 makes them: a is minus the key, b the key times a strength."""

    def more(keys):
        return {"a": -keys, "b": keys * samplers.strength(rng, keys.shape[:-1])[..., None]}

    return matrix_state.draw(rng, sizes, variant, samplers, more)


DPLR_RULE = Op(
    name="dplr_rule",
    arguments={
        **{"v": "B T H V", "k": "B T H K", "a": "B T H K", "b": "B T H K", "q": "B T Hq K"},
        **{"log_decay": matrix_state.DECAY, "state": "? B H K V", "reset": "? B T"},
    },
    results=matrix_state.RESULTS,
    summary=Dense(),
    implementations={"xla": Implementation(xla.dplr), "reference": Implementation(reference.dplr)},
    draw=_draw,
    sizes=matrix_state.SIZES,
    variants=matrix_state.VARIANTS,
    one_dtype=("q", "k", "v", "a", "b"),
    logarithms=("log_decay",),
    compute=matrix_state.compute,
)
