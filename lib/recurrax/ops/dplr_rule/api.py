"""The public function `dplr_rule` and the checks of its arguments."""

from jaxtyping import Array, Float

from recurrax.ops import arguments, dispatch
from recurrax.ops.dense_transition import enter
from recurrax.ops.dplr_rule import reference, xla
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
    """S_t = diag(e^{g_t}) S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T, o_t = scale * S_t^T q_t; all o and the last S.

    RWKV-7 is this with a = -kappa and b = kappa * eta for a key kappa of length 1 (arXiv 2503.14456). a reads the state
    before the decay. Whether the transition is stable is the caller's matter: it is not checked.

    Args:
      q: queries; their heads may be a multiple of the others', head h reads state h // (Hq / H).
      k: keys.
      v: values.
      a: what is read from the state.
      b: where it is written to.
      log_decay: g <= 0, in nats per step: one per head, one per head and key channel, or None: nothing decays.
      state: S before the first step; None is zero.
      scale: of the outputs; None is K ** -0.5.
      reset: True forgets everything before this step, `state` too.
      chunk_size: tokens per chunk of the "xla" implementation, rounded up to a power of two; None is measured.
      implementation: "reference", "xla", or None: the best of this backend.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), in which all is computed.

    The gradient recomputes: it keeps the inputs and, per block of 128 tokens on a CPU and 1,024 elsewhere, one state.

    Raises:
      ValueError: shapes or dtypes that do not fit, known log-decays above 0, a chunk size below 1, an unknown
        implementation.
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
