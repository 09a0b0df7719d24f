"""Provide the public function `dplr_rule` and check its arguments."""

from jaxtyping import Array, Float

from recurrax.ops import arguments, dispatch
from recurrax.ops.dense_transition import enter
from recurrax.ops.families.dplr_rule import reference, xla
from recurrax.ops.sharding import sharded
from recurrax.types import ArrayLike, Reset

IMPLEMENTATIONS = {"reference": reference.dplr, "xla": xla.dplr}
BEST = {"default": "xla"}


@sharded(
    {**{name: "B T H" for name in ("q", "k", "v", "a", "b", "log_decay")}, "state": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    enter=enter,
)
def dplr_rule(
    q: Float[ArrayLike, "B T Hq K"],
    k: Float[ArrayLike, "B T H K"],
    v: Float[ArrayLike, "B T H V"],
    a: Float[ArrayLike, "B T H K"],
    b: Float[ArrayLike, "B T H K"],
    log_decay: Float[ArrayLike, "B T H"] | Float[ArrayLike, "B T H K"] | None,
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
      implementation: "reference", "xla", or None for the fastest on this backend.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    The gradient recomputes intermediates: it stores the inputs and one state per block, of 128 tokens on a CPU and
    1,024 elsewhere.

    Raises:
      ValueError: shapes or dtypes do not fit, a known log-decay is above 0, the chunk size is below 1, or the
        implementation is unknown.
    """
    q, k, v, a, b, state, log_decay = arguments.arrays(q, k, v, a, b, state, log_decay=log_decay)
    batch, length, heads, value = arguments.check_rank("v", v, "B T H V")
    sizes = arguments.Sizes(batch, length, heads, arguments.check_rank("k", k, "B T H K")[-1], value)
    for name, array in (("k", k), ("a", a), ("b", b)):
        arguments.check_shape(name, array, ("B T H K", sizes[:4]))
    arguments.check_dtypes(q=q, k=k, v=v, a=a, b=b)
    arguments.check_common(q, log_decay, state, reset, chunk_size, sizes)
    run = dispatch.choose(implementation, IMPLEMENTATIONS, BEST)
    return arguments.call(run, q, (k, v, a, b), log_decay, state, reset, scale, chunk_size, sizes)
