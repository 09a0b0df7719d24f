"""Causal softmax attention with rotary positions and grouped key/value heads, with the state API of the other mixers.

    o_t = sum_s softmax_s( q_t . k_s / sqrt(K) ) v_s          over the last W positions of the document, t included
    y_t = W_out o_t

Rotary positions: Su et al., 2021 (arXiv 2104.09864). Grouped heads: Ainslie et al., 2023 (arXiv 2305.13245). Local
windows as in Griffin (arXiv 2402.19427). Optional are RMS norms of q and k (arXiv 2302.05442) and y_t = W_out (o_t *
sigmoid(W_g x_t)), as in Qwen3-Next. The state is a cache of the last W keys and values, of fixed size. Keys are cached
unrotated and rotated by their position in the current call: only differences of positions matter, so angles stay small
for streams of any length.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import RECURRENT
from recurrax.mixers import cache, parts, rotary, softmax
from recurrax.mixers.base import Mixer, MixerConfig, fan_in, ones, zeros
from recurrax.mixers.marks import mark
from recurrax.ops import linear, shift
from recurrax.ops.sharding import sharded
from recurrax.parameters import reads, vector, writes
from recurrax.types import Params, Reset, State

QK_NORMS = ("head", "all")


@dataclasses.dataclass(frozen=True)
class Attention(cache.Cached, MixerConfig):
    """A causal softmax attention layer."""

    capabilities = RECURRENT

    num_heads: int = 4
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key/value heads, each shared by num_heads / num_kv_heads query heads; None is num_heads."""
    head_dim: int | None = None
    """Size of each head, K; None is dim / num_heads."""
    window: int | None = None
    """Window W: each token sees itself and the window - 1 tokens before it; None is the whole document."""
    max_length: int = 2048
    """Size of the cache without a window: a longer call is refused, a longer stream keeps its last tokens."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies: the longest wavelength over 2 pi."""
    rotary_fraction: float = 1.0
    """Fraction of each head's channels that is rotated, counted from the first; 0 disables positions."""
    qk_norm: str | None = None
    """RMS norm of queries and keys: "head" over each head, "all" over all heads together; None disables it."""
    norm_eps: float = 1e-6
    """Epsilon added to the mean square in these norms."""
    output_gate: bool = False
    """Whether the output is multiplied by sigmoid(W_g x)."""
    out_bias: bool = False
    """Whether the output matrix has a bias."""

    def __post_init__(self):
        names = ("num_heads", "num_kv_heads", "head_dim", "window", "max_length", "rotary_base", "norm_eps")
        checks.positive(self, *names)
        if not 0 <= self.rotary_fraction <= 1:
            raise ValueError(f"rotary_fraction must be in [0, 1], got {self.rotary_fraction}")
        if self.qk_norm is not None:
            checks.choice("qk_norm", self.qk_norm, QK_NORMS)
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim is not None:
            self.turned(self.head_dim)

    def turned(self, head_dim: int) -> int:
        """Return the number of rotated channels per head.

        Raises:
          ValueError: the number is odd.
        """
        size = int(self.rotary_fraction * head_dim)
        if size % 2:
            part = "" if self.rotary_fraction == 1 else f" * rotary_fraction {self.rotary_fraction}"
            raise ValueError(f"rotary positions turn pairs of channels: head_dim {head_dim}{part} must be even")
        return size

    def layer(self, dim, dtype=jnp.float32, name=None):
        if self.head_dim is None and dim % self.num_heads:
            raise ValueError(
                f"dim {dim} is not divisible by num_heads {self.num_heads}; change one of them or set head_dim"
            )
        self.turned(self.kv_heads(dim)[1])
        return AttentionLayer(self, dim, dtype, name=name)

    def kv_heads(self, dim: int) -> tuple[int, int]:
        """Return the number and the size of the key/value heads."""
        return self.num_kv_heads or self.num_heads, self.head_dim or dim // self.num_heads

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        heads = self.kv_heads(dim)
        return cache.empty(batch_size, self.cache_size, dtype, k=heads, v=heads)


def attention(
    params: Params, x: Float[Array, "B T D"], state: State | None, config: Attention, *, reset: Reset | None = None
) -> tuple[Float[Array, "B T D"], State]:
    """Apply causal attention over the last W tokens; the state is {"k", "v": (B, W, Hkv, K), "seen": (B, W) bool}.

    Raises:
      ValueError: no window and T > max_length: the cache could not hold all tokens of the call.
    """
    batch, length, _ = x.shape
    cache.check_length(length, config.window, config.max_length)
    head_dim = params["in_q"].shape[1] // config.num_heads
    q, k, v = (linear(x, params[f"in_{n}"]) for n in "qkv")
    if config.qk_norm == "all":
        q, k = (parts.rms_norm(z, params[f"{n}_norm_scale"], config.norm_eps) for n, z in (("q", q), ("k", k)))
    q, k, v = (array.reshape(batch, length, -1, head_dim) for array in (q, k, mark("values", v)))
    if config.qk_norm == "head":
        q, k = (parts.rms_norm(z, params[f"{n}_norm_scale"], config.norm_eps) for n, z in (("q", q), ("k", k)))

    o, after = _attend(q, {"k": k, "v": v}, state, reset, config)
    o = parts.merge(o)
    if config.output_gate:
        o = o * mark("output_gate", jax.nn.sigmoid(linear(x, params["in_gate"])))
    y = linear(mark("mixed", o), params["out_kernel"])
    if config.out_bias:
        y = shift(y, params["bias"])
    return y, after


def _split(given):
    """Return the axes to shard: heads are split, except that a single key/value head is replicated on every device."""
    heads = "H" if given["new"]["k"].shape[2] > 1 else "."
    return {"q": "B T H", "new": f"B T {heads}", "state": f"B . {heads}", "reset": "B T"}


def _results(given):
    """Return the axes to shard of the outputs and of the cache."""
    entries = _split(given)["state"]
    return "B T H", {"k": entries, "v": entries, "seen": "B"}


@sharded(_split, results=_results, summary=cache.LastEntries())
def _attend(q, new, state, reset, config):
    """Return the attention outputs (B, T, H, K) and the next cache."""
    cached, seen, after = cache.extended(new, state, config.cache_size, reset=reset)
    keys, turned = cached["k"], config.turned(q.shape[-1])
    if turned:
        frequency = rotary.frequencies(turned // 2, config.rotary_base)
        q, keys = rotary.turn(q, frequency, seen.past), rotary.turn(keys, frequency)
    return softmax.attend(q, keys, cached["v"], seen, config.window), after


class AttentionLayer(Mixer):
    """Parameters of `attention`: 2 D K (H + Hkv) of them.

    Norms over each head add 2 K, norms over all heads K (H + Hkv), a gate D H K, a bias D.
    """

    function = staticmethod(attention)

    def parameters(self, depth):
        d, h = self.dim, self.config.num_heads
        kv, k = self.config.kv_heads(d)
        more = {}
        if self.config.qk_norm is not None:
            whole = self.config.qk_norm == "all"
            more["q_norm_scale"] = vector(ones, h * k if whole else k)
            more["k_norm_scale"] = vector(ones, kv * k if whole else k)
        if self.config.output_gate:
            more["in_gate"] = reads(fan_in, d, h * k)
        if self.config.out_bias:
            more["bias"] = vector(zeros, d, "embed")
        return {
            "in_q": reads(fan_in, d, h * k),
            "in_k": reads(fan_in, d, kv * k),
            "in_v": reads(fan_in, d, kv * k),
            "out_kernel": writes(fan_in, h * k, d),
            **more,
        }
