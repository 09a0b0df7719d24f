"""Every mixer of the library, small: its config, its step-by-step form, and how many parameters it has at D = 8.

A new mixer is a line here and an oracle in oracles/; test_mixers.py then holds it to all the laws.
"""

import dataclasses
from collections.abc import Callable

from oracles import attention, matrix, vector
from recurrax.mixers import GLA, LRU, RGLRU, Attention, MixerConfig

DIM = 8
LENGTH = 40


@dataclasses.dataclass(frozen=True)
class Case:
    config: MixerConfig
    oracle: Callable
    parameters: int
    """How many there are at D = 8, by the formula in the layer's docstring."""


VECTOR = {
    "LRU": Case(LRU(state_dim=6), vector.lru, 6 * (4 * 8 + 3) + 8),
    "RG-LRU": Case(RGLRU(num_heads=2), vector.rglru, 3 * 8 * 8 + 2 * 8**2 // 2 + (4 + 4) * 8),
    "RG-LRU wide": Case(
        RGLRU(width=12, num_heads=3, conv_width=2), vector.rglru, 3 * 8 * 12 + 2 * 12**2 // 3 + (2 + 4) * 12
    ),
}

STRUCTURED = {}

MATRIX = {
    "GLA": Case(GLA(num_heads=2, gate_rank=3), matrix.gla, 8 * (2 * 2 * 2 + 3 * 2 * 4 + 3) + 2 * 2 * (3 + 1) + 4),
    "GLA with convolutions": Case(
        GLA(num_heads=2, head_dim=3, value_head_dim=5, gate_rank=2, conv_width=3),
        matrix.gla,
        8 * (2 * 2 * 3 + 3 * 2 * 5 + 2) + 2 * 3 * (2 + 1) + 5 + 3 * (2 * 2 * 3 + 2 * 5),
    ),
}

DELTA = {}

ATTENTION = {
    "attention": Case(Attention(num_heads=2, max_length=LENGTH), attention.attention, 2 * 8 * 4 * (2 + 2)),
    "attention in a window": Case(Attention(num_heads=2, window=7), attention.attention, 2 * 8 * 4 * (2 + 2)),
    "attention of grouped heads": Case(
        Attention(num_heads=4, num_kv_heads=2, head_dim=6, window=16, rotary_base=100.0),
        attention.attention,
        2 * 8 * 6 * (4 + 2),
    ),
}

MIXERS = {**VECTOR, **STRUCTURED, **MATRIX, **DELTA, **ATTENTION}
