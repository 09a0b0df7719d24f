"""Causal softmax attention with rotary positions and grouped key/value heads, under the same state law as the rest.

    o_t = sum_s softmax_s( q_t . k_s / sqrt(K) ) v_s          over the last W positions of the document, t included

Rotary positions: Su et al., 2021 (arXiv 2104.09864). Grouped heads: Ainslie et al., 2023 (arXiv 2305.13245). Local
windows as in Griffin (arXiv 2402.19427). The state is a cache of the last W keys and values, of fixed size. Keys are
kept unrotated and turned by their place in the present call: only differences of positions matter, so angles stay
small however long the stream is.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.mixers import rotary
from recurrax.mixers.base import Mixer, MixerConfig, fan_in
from recurrax.ops import linear
from recurrax.types import Params, Reset, State


@dataclasses.dataclass(frozen=True)
class Attention(MixerConfig):
    """Causal softmax attention."""

    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int | None = None
    """Key/value heads, each shared by num_heads / num_kv_heads query heads; None is num_heads."""
    head_dim: int | None = None
    """K; None is dim / num_heads."""
    window: int | None = None
    """W: each token sees itself and the window - 1 tokens before it; None is the whole document."""
    max_length: int = 2048
    """Size of the cache where there is no window: a longer call is refused, a longer stream keeps its last tokens."""
    rotary_base: float = 10_000.0
    """Longest wavelength of the rotary positions, over 2 pi."""

    def __post_init__(self):
        checks.positive(self, *(field.name for field in dataclasses.fields(self)))
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of channels: head_dim must be even, got {self.head_dim}")

    @property
    def cache_size(self) -> int:
        return self.window or self.max_length

    def layer(self, dim, dtype=jnp.float32, name=None):
        if self.head_dim is None and (dim % self.num_heads or (dim // self.num_heads) % 2):
            raise ValueError(
                f"dim {dim} is not divisible by num_heads {self.num_heads} into heads of even size; "
                "change one of them or set head_dim"
            )
        return AttentionLayer(self, dim, dtype, name=name)

    def kv_heads(self, dim: int) -> tuple[int, int]:
        """Number and size of the key/value heads."""
        return self.num_kv_heads or self.num_heads, self.head_dim or dim // self.num_heads

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        shape = (batch_size, self.cache_size, *self.kv_heads(dim))
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype), "seen": jnp.zeros(shape[:2], bool)}


def attention(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: Attention, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Causal attention over the last W tokens; the state is {"k", "v": (B, W, Hkv, K), "seen": (B, W) bool}.

    Raises:
      ValueError: no window and T > max_length: the cache could not hold what the call has seen.
    """
    dtype, (batch, length, _) = x.dtype, x.shape
    if config.window is None and length > config.max_length:
        raise ValueError(
            f"{length} tokens in one call, but max_length is {config.max_length}; raise it or set a window"
        )
    head_dim = params["in_q"].shape[1] // config.num_heads
    q, k, v = (linear(x, params[f"in_{n}"]).reshape(batch, length, -1, head_dim) for n in "qkv")

    past = 0
    keys, values, seen = k, v, jnp.ones((batch, length), bool)
    if state is not None:
        past = config.cache_size
        keys = jnp.concatenate([state["k"].astype(dtype), k], axis=1)
        values = jnp.concatenate([state["v"].astype(dtype), v], axis=1)
        seen = jnp.concatenate([state["seen"], seen], axis=1)
    # Documents are counted from 0, the one that the cache belongs to.
    document = jnp.zeros((batch, length), jnp.int32) if reset is None else jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    key_document = jnp.pad(document, ((0, 0), (past, 0)))

    mask = None
    if state is not None or reset is not None:
        mask = (seen[:, None, :] & (key_document[:, None, :] == document[:, :, None]))[:, None]
        if past:
            ahead = jnp.arange(past + length)[None] - (past + jnp.arange(length))[:, None]
            mask = mask & ((ahead <= 0) & (ahead > -config.cache_size))[None, None]
    frequency = rotary.frequencies(head_dim // 2, config.rotary_base)
    o = jax.nn.dot_product_attention(
        rotary.turn(q, frequency, past),
        rotary.turn(keys, frequency),
        values,
        mask=mask,
        # Without a cache queries and keys are the same positions, and the band needs no mask of its own.
        is_causal=not past,
        local_window_size=None if past or config.window is None else (config.window - 1, 0),
    )
    y = linear(o.reshape(batch, length, -1), params["out_kernel"])

    seen = seen & (key_document == document[:, -1:])
    cache = {"k": keys, "v": values, "seen": seen}
    return y, {name: _last(array, config.cache_size) for name, array in cache.items()}


def _last(array, size):
    """The last `size` entries of axis 1, zeros (False) in front where there are fewer."""
    missing = max(size - array.shape[1], 0)
    padded = jnp.pad(array, ((0, 0), (missing, 0), *((0, 0) for _ in array.shape[2:])))
    return padded[:, padded.shape[1] - size :]


class AttentionLayer(Mixer):
    """Parameters of `attention`: 2 D K (H + Hkv) of them."""

    function = staticmethod(attention)

    def parameters(self, depth):
        d, h = self.dim, self.config.num_heads
        kv, k = self.config.kv_heads(d)
        return {
            "in_q": (fan_in, (d, h * k)),
            "in_k": (fan_in, (d, kv * k)),
            "in_v": (fan_in, (d, kv * k)),
            "out_kernel": (fan_in, (h * k, d)),
        }
