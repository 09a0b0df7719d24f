"""Provide causal softmax attention over a cache and the current tokens, for the mixers with a key/value cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recurrax.mixers import flash
from recurrax.ops import containment, platforms


class Seen(NamedTuple):
    """Which keys a query sees: those of its document, in the cache or among the current tokens."""

    past: int
    """Number of keys in the cache."""
    mask: Bool[Array, "B 1 T S"] | None
    """With a cache, all that a query sees, causality included; without one, keys of its document, None if all are."""
    document: Int[Array, "B T"]
    """Number of the document of each current token."""


def attend(
    q: Float[Array, "B T Hq K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H V"],
    seen: Seen,
    window: int | None,
    scale: float | None = None,
) -> Float[Array, "B T Hq V"]:
    """Return o_t = sum_s softmax_s(scale q_t . k_s) v_s over the visible s.

    A key or value that is not finite makes exactly those outputs NaN that see it, which weights of 0 do not ensure.
    Where the program is known to run on a TPU (`platforms.on`), whole sequences in bfloat16 do not hold their scores
    (`flash`), and have no second derivatives.

    Args:
      q: queries.
      k: keys of the cache, followed by those of the current tokens.
      v: values, in the same order.
      seen: the keys that each query sees, besides causality and the window.
      window: number of tokens that a query sees, itself included; None is all.
      scale: factor of the logits; None is K ** -0.5.
    """
    q, own = containment.admit(q, 3)
    k, bad_keys = containment.admit(k, 3)
    v, bad_values = containment.admit(v, 3)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if seen.past == 0 and platforms.known("tpu") and flash.takes(q, k):
        o = flash.attend(q, k, v, seen.document, window, scale)
    else:
        o = _with_scores(q, k, v, seen, window, scale)
    bad = _sees(seen, bad_keys + bad_values, window)
    return containment.release(o, jnp.repeat(bad, q.shape[2] // bad.shape[2], axis=2), own)


def _with_scores(q, k, v, seen, window, scale):
    band = seen.past == 0 and window is not None
    size = max(k.shape[-1], v.shape[-1])  # dot_product_attention needs keys and values of one size
    # JAX's attention leaves the cast of its float32 softmax to the promotion rule. Under the strict rule its gradient
    # cannot be compiled in half precision (jax 0.10).
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            *(jnp.pad(x, (*3 * ((0, 0),), (0, size - x.shape[-1]))) for x in (q, k, v)),
            scale=scale,
            mask=seen.mask,
            # Without a cache queries and keys have the same positions, so the band needs no explicit mask.
            is_causal=seen.past == 0,
            local_window_size=(window - 1, 0) if band else None,
        )[..., : v.shape[-1]]


def _sees(seen, flags, window):
    """Return the number of flags (B, S, H) that each query sees, (B, T, H), a linear function of them."""
    if seen.past:
        return jnp.matmul(seen.mask[:, 0].astype(flags.dtype), flags)
    tokens = jnp.arange(flags.shape[1])[None]
    starts = jnp.diff(seen.document, axis=1, prepend=seen.document[:, :1]) != 0
    first = jax.lax.cummax(jnp.where(starts, tokens, 0), axis=1)
    if window is not None:
        first = jnp.maximum(first, tokens - (window - 1))
    upto = jnp.cumsum(flags, axis=1)
    before = jnp.take_along_axis(jnp.pad(upto, ((0, 0), (1, 0), (0, 0))), first[..., None], axis=1)
    return upto - before
