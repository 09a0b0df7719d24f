"""Token mixers: one published layer per file, each a config, a pure function and a Linen shell."""

from recurrax.mixers.attention import Attention, AttentionLayer, attention
from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.gla import GLA, GLALayer, gla
from recurrax.mixers.lru import LRU, LRULayer, eigenvalues, lru
from recurrax.mixers.rglru import RGLRU, RGLRULayer, rglru

__all__ = [
    "GLA",
    "LRU",
    "RGLRU",
    "Attention",
    "AttentionLayer",
    "GLALayer",
    "LRULayer",
    "Mixer",
    "MixerConfig",
    "RGLRULayer",
    "attention",
    "eigenvalues",
    "gla",
    "lru",
    "rglru",
]
