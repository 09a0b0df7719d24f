"""MLA, multi-head latent attention (DeepSeek-V2, 2024, arXiv 2405.04434), as Kimi Linear has it (arXiv 2510.26692).

    c_t = RMSNorm(W_c x_t)                          the latent vector; the cache holds c_t and r_t
    r_t = W_r x_t                                   the part of the keys that all heads share
    k_s = [W_k c_s, r_s]    v_s = W_v c_s           per head
    o_t = sum_s softmax_s( q_t . k_s / sqrt(K + R) ) v_s,    y_t = W_out o_t

q and r are rotated by their positions if there is a `rotary_base`; Kimi Linear has no positions. For a single token
W_k and W_v are applied to the query and to the result: q . W_k c = (W_k^T q) . c, so that no keys are computed from
the cache.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import cache, parts, rotary, softmax
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, ones
from recurrax.mixers.marks import mark
from recurrax.ops import contract, linear
from recurrax.ops.sharding import sharded
from recurrax.parameters import Parameter, reads, vector, writes
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class LatentAttention(cache.Cached, MixerConfig):
    """A multi-head latent attention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of heads, H."""
    latent_dim: int | None = None
    """Size of the latent vector; None is dim / 2."""
    head_dim: int | None = None
    """Query and key size per head without the shared part, K; None is dim / num_heads."""
    shared_dim: int | None = None
    """Size of the part of queries and keys whose keys all heads share, R; None is K / 2."""
    value_head_dim: int | None = None
    """Value size per head, V; None is dim / num_heads."""
    rotary_base: float | None = None
    """Base of the rotary frequencies of the shared part: the longest wavelength over 2 pi. None disables positions."""
    window: int | None = None
    """Window W: each token sees itself and the window - 1 tokens before it; None is the whole document."""
    max_length: int = 2048
    """Size of the cache without a window: a longer call is refused, a longer stream keeps its last tokens."""
    norm_eps: float = 1e-6
    """Epsilon added to the mean square of the latent vector in the norm."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))

    def sizes(self, dim: int) -> tuple[int, int, int, int]:
        """Return K, R, V and the size of the latent vector."""
        k, v = checks.head_sizes(self, keys=dim, values=dim)
        r = self.shared_dim or max(k // 2, 1)
        if self.rotary_base is not None and r % 2:
            raise ValueError(f"rotary positions turn pairs of channels: shared_dim {r} must be even")
        return k, r, v, self.latent_dim or max(dim // 2, 1)

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.sizes(dim)
        return LatentAttentionLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        _, r, _, c = self.sizes(dim)
        return cache.empty(batch_size, self.cache_size, dtype, latent=(c,), shared=(r,))


def latent_attention(
    params: Params,
    x: Float[Array, "B T D"],
    state: State | None,
    config: LatentAttention,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], State]:
    """Apply latent attention; the state is {"latent": (B, W, C), "shared": (B, W, R), "seen": (B, W) bool}.

    Raises:
      ValueError: no window and T > max_length: the cache could not hold all tokens of the call.
    """
    cache.check_length(x.shape[1], config.window, config.max_length)
    k, _, _, c = config.sizes(x.shape[-1])
    q, q_shared = jnp.split(parts.heads(linear(x, params["in_q"]), config.num_heads), (k,), axis=-1)
    new = {
        "latent": parts.rms_norm(linear(x, params["in_latent"]), params["norm_scale"], config.norm_eps),
        "shared": linear(x, params["in_shared"]),
    }
    to_keys, to_values = (params[f"{name}_kernel"].reshape(c, config.num_heads, -1) for name in ("key", "value"))
    o, after = _read(q, q_shared, new, to_keys, to_values, state, reset, config)
    return linear(mark("mixed", parts.merge(o)), params["out_kernel"]), after


@sharded(
    {
        **{"q": "B T H", "q_shared": "B T H", "to_keys": ". H", "to_values": ". H"},
        **{"new": "B T", "state": "B", "reset": "B T"},
    },
    results=("B T H", "B"),
    summary=cache.LastEntries(),
)
def _read(q, q_shared, new, to_keys, to_values, state, reset, config):
    """Return the attention outputs (B, T, H, V) and the next cache."""
    length, k, r = q.shape[1], q.shape[-1], q_shared.shape[-1]
    cached, seen, after = cache.extended(new, state, config.cache_size, reset=reset)
    latent, shared = cached["latent"][:, :, None], cached["shared"][:, :, None]
    if config.rotary_base is not None:
        frequency = rotary.frequencies(r // 2, config.rotary_base)
        q_shared, shared = rotary.turn(q_shared, frequency, seen.past), rotary.turn(shared, frequency)
    if length == 1:
        q, keys, values = contract("bthk,chk->bthc", q, to_keys), latent, latent
    else:
        keys = contract("bsc,chk->bshk", latent[:, :, 0], to_keys)
        values = mark("values", contract("bsc,chv->bshv", latent[:, :, 0], to_values))
        shared = jnp.broadcast_to(shared, (*keys.shape[:-1], r))
    q, keys = jnp.concatenate([q, q_shared], axis=-1), jnp.concatenate([keys, shared], axis=-1)
    o = softmax.attend(q, keys, values, seen, config.window, scale=(k + r) ** -0.5)
    if length == 1:
        o = contract("bthc,chv->bthv", o, to_values)
    return o, after


class LatentAttentionLayer(Mixer):
    """Parameters of `latent_attention`: D (H (K + R + V) + C + R) + C (H (K + V) + 1) of them."""

    function = staticmethod(latent_attention)

    def parameters(self, depth):
        d, h, (k, r, v, c) = self.dim, self.config.num_heads, self.config.sizes(self.dim)
        return {
            "in_q": reads(fan_in, d, h * (k + r)),
            "in_latent": reads(fan_in, d, c),
            "in_shared": reads(fan_in, d, r),
            "norm_scale": vector(ones, c, "latent"),
            "key_kernel": Parameter(fan_in, (c, h * k), ("latent", "inner")),
            "value_kernel": Parameter(fan_in, (c, h * v), ("latent", "inner")),
            "out_kernel": writes(fan_in, h * v, d),
        }
