"""Provide the public functions `delta_rule` and `delta_product` and check their arguments."""

from jaxtyping import Array, Float

from recurrax.ops import arguments, dispatch
from recurrax.ops.dense_transition import enter
from recurrax.ops.families.delta_rule import reference, xla
from recurrax.ops.sharding import sharded
from recurrax.types import ArrayLike, Reset

IMPLEMENTATIONS = {"reference": reference.delta, "xla": xla.delta}
BEST = {"default": "xla"}


@sharded(
    {"q": "B T H", "k": "B T H", "v": "B T H", "beta": "B T H", "log_decay": "B T H", "state": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    enter=enter,
)
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
      chunk_size: tokens per chunk of the "xla" implementation, rounded up to a power of two; None is a tuned default.
      implementation: "reference", "xla", or None for the fastest on this backend.

    Returns:
      o in q's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    The gradient recomputes intermediates: it stores the inputs and one state per block, of 256 tokens on a CPU and
    2,048 elsewhere.

    Raises:
      ValueError: shapes or dtypes do not fit, a known log-decay is above 0, the chunk size is below 1, or the
        implementation is unknown.
    """
    q, k, v, beta, state, log_decay = arguments.arrays(q, k, v, beta, state, log_decay=log_decay)
    arguments.check_rank("v", v, "B T H V")
    arguments.check_rank("k", k, "B T H K")
    arguments.check_shape("k", k, ("B T H K", (*v.shape[:3], k.shape[3])))
    arguments.check_shape("beta", beta, ("B T H", v.shape[:3]))
    return _delta(q, k, v, beta, log_decay, state, scale, reset, chunk_size, implementation)


@sharded(
    {
        **{name: "B T . H" for name in ("k", "v", "beta")},
        **{"q": "B T H", "log_decay": "B T H", "state": "B H", "reset": "B T"},
    },
    results=("B T H", "B H"),
    enter=enter,
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
    q, k, v, beta, state, log_decay = arguments.arrays(q, k, v, beta, state, log_decay=log_decay)
    arguments.check_rank("v", v, "B T R H V")
    arguments.check_rank("k", k, "B T R H K")
    arguments.check_shape("k", k, ("B T R H K", (*v.shape[:4], k.shape[4])))
    arguments.check_shape("beta", beta, ("B T R H", v.shape[:4]))
    return _delta(q, k, v, beta, log_decay, state, scale, reset, chunk_size, implementation)


def _delta(q, k, v, beta, log_decay, state, scale, reset, chunk_size, implementation):
    """Run either op, for k (B, T, [R,] H, K), v (B, T, [R,] H, V), beta (B, T, [R,] H)."""
    sizes = arguments.Sizes(*v.shape[:2], v.shape[-2], k.shape[-1], v.shape[-1])
    arguments.check_dtypes(q=q, k=k, v=v)
    arguments.check_dtypes(beta=beta)
    arguments.check_common(q, log_decay, state, reset, chunk_size, sizes)
    run = dispatch.choose(implementation, IMPLEMENTATIONS, BEST)
    return arguments.call(run, q, (k, v, beta), log_decay, state, reset, scale, chunk_size, sizes)
