"""Provide causal softmax attention over a cache and the current tokens, for the mixers with a key/value cache."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recurrax.ops import containment


def attend(
    q: Float[Array, "B T Hq K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H V"],
    mask: Bool[Array, "B 1 T S"] | None,
    past: int,
    window: int | None,
    scale: float | None = None,
) -> Float[Array, "B T Hq V"]:
    """Return o_t = sum_s softmax_s(scale q_t . k_s) v_s over the visible s.

    A key or value that is not finite makes exactly those outputs NaN that see it, which weights of 0 do not ensure.

    Args:
      q: queries.
      k: keys of the cache, followed by those of the current tokens.
      v: values, in the same order.
      mask: the keys that each query sees. Without a cache it may be None, and causality and the window restrict it.
      past: number of keys in the cache.
      window: number of tokens that a query sees, itself included; None is all.
      scale: factor of the logits; None is K ** -0.5.
    """
    q, own = containment.admit(q, 3)
    k, bad_keys = containment.admit(k, 3)
    v, bad_values = containment.admit(v, 3)
    band = past == 0 and window is not None
    size = max(k.shape[-1], v.shape[-1])  # dot_product_attention needs keys and values of one size
    # JAX's attention leaves the cast of its float32 softmax to the promotion rule. Under the strict rule its gradient
    # cannot be compiled in half precision (jax 0.10).
    with jax.numpy_dtype_promotion("standard"):
        o = jax.nn.dot_product_attention(
            *(jnp.pad(x, (*3 * ((0, 0),), (0, size - x.shape[-1]))) for x in (q, k, v)),
            scale=q.shape[-1] ** -0.5 if scale is None else scale,
            mask=mask,
            # Without a cache queries and keys have the same positions, so the band needs no explicit mask.
            is_causal=past == 0,
            local_window_size=(window - 1, 0) if band else None,
        )[..., : v.shape[-1]]
    visible = _visible(q.shape[1], k.shape[1], mask, past, window)
    seen = jnp.matmul(visible.astype(containment.FLAG), bad_keys + bad_values)
    return containment.release(o, jnp.repeat(seen, q.shape[2] // seen.shape[2], axis=2), own)


def _visible(queries, keys, mask, past, window):
    """Return the keys that each query sees, (B or 1, T, S) bool."""
    visible = jnp.ones((1, queries, keys), bool) if mask is None else mask[:, 0]
    if past:
        return visible
    ahead = jnp.arange(keys)[None, None] - jnp.arange(queries)[None, :, None]
    visible = visible & (ahead <= 0)
    return visible if window is None else visible & (ahead > -window)
