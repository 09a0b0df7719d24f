"""Every mixer of the library, small: its config, its step-by-step form, and how many parameters it has at D = 8.

A new mixer is a line here and an oracle in oracles/; test_mixers.py then holds it to all the laws.
"""

import dataclasses
from collections.abc import Callable

from oracles import attention, delta, matrix, structured, vector
from recurrax.mixers import (
    GLA,
    HGRN,
    HGRN2,
    KDA,
    LMU,
    LRU,
    LSSL,
    MLSTM,
    RGLRU,
    RWKV7,
    S4,
    S4D,
    S5,
    Attention,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    LatentAttention,
    LightNet,
    Lightning,
    LinearAttention,
    Mamba,
    Mamba2,
    MixerConfig,
    RetNet,
    TransNormer,
    TransNormerLLM,
)
from recurrax.projections import ChannelMix

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
    "RG-LRU as RecurrentGemma's": Case(
        RGLRU(width=6, num_heads=3, bias=True, unit_start=True),
        vector.rglru,
        3 * 8 * 6 + 2 * 6**2 // 3 + (4 + 4) * 6 + 2 * 6 + 8,
    ),
    "HGRN": Case(HGRN(width=6), vector.hgrn, 7 * 8 * 6 + 11 * 6 + 8),
    "Mamba": Case(Mamba(state_dim=3, dt_rank=2), vector.mamba, 16 * (3 * 8 + 4 + 2 * 2 + 3 * 3 + 3)),
    "Mamba with inner norms": Case(
        Mamba(width=10, state_dim=4, conv_width=2, inner_norm_eps=1e-3),
        vector.mamba,
        10 * (3 * 8 + 2 + 2 * 1 + 3 * 4 + 3),
    ),
}

STRUCTURED = {
    "S4D": Case(S4D(state_dim=6), structured.s4d, 8 * (2 * 6 + 2 + 9) + 8 * 9),
    "S4D bilinear": Case(
        S4D(state_dim=4, init="inv", discretization="bilinear", rate=3.0, gate=False),
        structured.s4d,
        8 * (2 * 4 + 2 + 9),
    ),
    "S4D of LegS": Case(S4D(state_dim=8, init="legs", dt_max=0.5), structured.s4d, 8 * (2 * 8 + 2 + 9) + 8 * 9),
    "S4D random": Case(S4D(state_dim=4, init="random", gate=False, dt_max=0.5), structured.s4d, 8 * (2 * 4 + 2 + 9)),
    "S5": Case(S5(state_dim=12, num_blocks=2), structured.s5, 12 * 8 * 2 + 12 * 3 // 2 + 8 + 8 * 9),
    "S5 bilinear": Case(
        S5(state_dim=6, num_blocks=1, discretization="bilinear", rate=0.5, activation="full_glu"),
        structured.s5,
        6 * 8 * 2 + 6 * 3 // 2 + 8 + 2 * 8 * 9,
    ),
    "S5 with the gate of GELU": Case(
        S5(state_dim=4, num_blocks=1, activation="half_glu2"), structured.s5, 4 * 8 * 2 + 4 * 3 // 2 + 8 + 8 * 9
    ),
    "S5 without a gate": Case(
        S5(state_dim=4, num_blocks=2, activation="gelu"), structured.s5, 4 * 8 * 2 + 4 * 3 // 2 + 8
    ),
    "LSSL": Case(LSSL(state_dim=5), structured.lssl, 4 * 5 + 8 * (1 * 6 + 1) + 8 * (1 * 8 + 1)),
    "LSSL of more outputs": Case(
        LSSL(state_dim=4, num_outputs=3, alpha=0.25, rate=2.0),
        structured.lssl,
        4 * 4 + 8 * (3 * 5 + 1) + 8 * (3 * 8 + 1),
    ),
    "LSSL by Euler's backward steps": Case(
        LSSL(state_dim=3, alpha=1.0), structured.lssl, 4 * 3 + 8 * (1 * 4 + 1) + 8 * (1 * 8 + 1)
    ),
    "S4": Case(S4(state_dim=6), structured.s4, 8 * (4 * 6 + 2 + 9)),
    "S4 with a gate": Case(S4(state_dim=8, rate=2.0, gate=True), structured.s4, 8 * (4 * 8 + 2 + 9) + 8 * 9),
    # Behind a ReLU a few outputs would depend on nothing at all.
    "LMU": Case(LMU(order=5, theta=20.0, activation="gelu"), structured.lmu, 1 * 9 + 8 * (1 * 5 + 9)),
    "LMU of more channels": Case(
        LMU(order=4, theta=7.5, memory_channels=3, memory_activation="tanh", activation="identity"),
        structured.lmu,
        3 * 9 + 8 * (3 * 4 + 9),
    ),
}

MATRIX = {
    "GLA": Case(GLA(num_heads=2, gate_rank=3), matrix.gla, 8 * (2 * 2 * 2 + 3 * 2 * 4 + 3) + 2 * 2 * (3 + 1) + 4),
    "GLA with convolutions": Case(
        GLA(num_heads=2, head_dim=3, value_head_dim=5, gate_rank=2, conv_width=3),
        matrix.gla,
        8 * (2 * 2 * 3 + 3 * 2 * 5 + 2) + 2 * 3 * (2 + 1) + 5 + 3 * (2 * 2 * 3 + 2 * 5),
    ),
    "GLA with shared keys and values": Case(
        GLA(num_heads=4, num_kv_heads=2, head_dim=3, value_head_dim=5, gate_rank=2),
        matrix.gla,
        8 * (4 * 3 + 2 * 3 + 2 * 4 * 5 + 2 * 5 + 2) + 2 * 3 * (2 + 1) + 5,
    ),
    "linear attention": Case(LinearAttention(num_heads=2), matrix.linear_attention, 2 * 8 * 2 * (4 + 4)),
    "linear attention, not normalized": Case(
        LinearAttention(num_heads=2, head_dim=3, value_head_dim=5, feature_map="silu", normalize=False),
        matrix.linear_attention,
        2 * 8 * 2 * (3 + 5),
    ),
    "RetNet": Case(RetNet(num_heads=2), matrix.retnet, 8 * 2 * (2 * 4 + 3 * 8) + 8),
    "TransNormer": Case(
        TransNormer(num_heads=2, head_dim=3, value_head_dim=5), matrix.transnormer, 8 * 2 * (2 * 3 + 2 * 5) + 2 * 5
    ),
    "Lightning": Case(Lightning(num_heads=2, head_dim=3), matrix.lightning, 5 * 8 * 2 * 3 + 2 * 3),
    "TransNormerLLM": Case(TransNormerLLM(num_heads=2), matrix.transnormer_llm, 5 * 8 * 2 * 4 + 2 * 4),
    "TransNormerLLM without positions": Case(
        TransNormerLLM(num_heads=3, head_dim=3, lrpe=False), matrix.transnormer_llm, 5 * 8 * 3 * 3
    ),
    "LightNet": Case(
        LightNet(num_heads=2, head_dim=3, value_head_dim=5),
        matrix.lightnet,
        8 * 2 * (2 * 3 + 2 * 5) + 5 * (8 + 2 * 5) + 2 * 5,
    ),
    "HGRN2": Case(
        HGRN2(num_heads=2, head_dim=3, value_head_dim=5),
        matrix.hgrn2,
        8 * 2 * (2 * 3 + 2 * 5) + 2 * 3 + 2 * 5,
    ),
    "Mamba-2": Case(
        Mamba2(num_heads=4, head_dim=3, state_dim=5, num_groups=2, conv_width=3),
        matrix.mamba2,
        8 * (3 * 12 + 2 * 2 * 5 + 4) + (3 + 1) * (12 + 2 * 2 * 5) + 3 * 4 + 12,
    ),
    "Mamba-2 with a limit": Case(
        Mamba2(num_heads=2, state_dim=4, dt_limit=(0.01, 0.05)),
        matrix.mamba2,
        8 * (3 * 16 + 2 * 4 + 2) + (4 + 1) * (16 + 2 * 4) + 3 * 2 + 16,
    ),
    "mLSTM": Case(
        MLSTM(num_heads=2, head_dim=3, value_head_dim=5),
        matrix.mlstm,
        8 * 2 * (2 * 3 + 3 * 5 + 2) + 2 * 2 + 2 * 5,
    ),
    "mLSTM with a sigmoid": Case(
        MLSTM(num_heads=2, input_gate="sigmoid", gate_soft_cap=None),
        matrix.mlstm,
        8 * 2 * (2 * 2 + 3 * 4 + 2) + 2 * 2 + 2 * 4,
    ),
}

DELTA = {
    "DeltaNet": Case(
        DeltaNet(num_heads=1, head_dim=16, value_head_dim=16),
        delta.deltanet,
        8 * (2 * 16 + 2 * 16 + 1) + 4 * (2 * 16 + 16) + 16,
    ),
    "DeltaNet with a gate": Case(
        DeltaNet(
            num_heads=2, head_dim=9, value_head_dim=7, negative_eigenvalues=True, output_gate=True, conv_width=None
        ),
        delta.deltanet,
        8 * 2 * (2 * 9 + 2 * 7 + 1) + 7 + 8 * 2 * 7,
    ),
    "Gated DeltaNet": Case(
        GatedDeltaNet(num_heads=1),
        delta.gated_deltanet,
        8 * (2 * 6 + 3 * 12 + 2 * 1) + 4 * (2 * 6 + 12) + 2 * 1 + 12,
    ),
    "Gated DeltaNet of more value heads": Case(
        GatedDeltaNet(
            num_heads=2, head_dim=14, value_head_dim=9, num_value_heads=4, negative_eigenvalues=True, conv_width=3
        ),
        delta.gated_deltanet,
        8 * (2 * 2 * 14 + 3 * 4 * 9 + 2 * 4) + 3 * (2 * 2 * 14 + 4 * 9) + 2 * 4 + 9,
    ),
    "KDA": Case(
        KDA(num_heads=2),
        delta.kda,
        8 * (2 * 8 + 2 * 8 + 2 + 2 * 4) + 4 * (8 + 8) + 4 * (2 * 8 + 8) + 8 + 2 + 4,
    ),
    "KDA with bounded decay": Case(
        KDA(
            num_heads=2,
            head_dim=7,
            value_head_dim=9,
            gate_rank=2,
            full_rank_gate=True,
            gate_bias=True,
            lower_bound=-5.0,
            negative_eigenvalues=True,
            conv_width=2,
        ),
        delta.kda,
        8 * (2 * 14 + 2 * 18 + 2 + 2) + 2 * 14 + 8 * 18 + 18 + 2 * (2 * 14 + 18) + 14 + 2 + 9,
    ),
    "DeltaProduct": Case(
        DeltaProduct(num_heads=1),
        delta.delta_product,
        8 * (6 + 12 + 2 * (6 + 12 + 1)) + 4 * (6 + 2 * (6 + 12)) + 12 + 8 * 12,
    ),
    "DeltaProduct with a forget gate": Case(
        DeltaProduct(
            num_heads=2,
            head_dim=14,
            value_head_dim=9,
            num_householder=3,
            negative_eigenvalues=False,
            forget_gate=True,
            output_gate=False,
            conv_width=3,
        ),
        delta.delta_product,
        8 * 2 * (14 + 9 + 3 * (14 + 9 + 1)) + 3 * 2 * (14 + 3 * (14 + 9)) + 9 + 8 * 2 + 2 * 2,
    ),
    "RWKV-7": Case(
        RWKV7(num_heads=2),
        delta.rwkv7,
        8 * (6 + 2 * 8 + 2 * 8) + (32 + 32) * (8 + 8) + 32 * (8 + 8) + 5 * 8 + 2 * 8,
    ),
    "RWKV-7 with a value residual": Case(
        RWKV7(
            num_heads=2,
            head_dim=3,
            value_head_dim=5,
            decay_rank=2,
            rate_rank=3,
            gate_rank=4,
            value_residual=True,
            value_rank=2,
            key_norm_eps=1e-6,
        ),
        delta.rwkv7,
        8 * (6 + 2 * 6 + 2 * 10) + (2 + 3) * (8 + 6) + 4 * (8 + 10) + 5 * 6 + 2 * 10 + 2 * (8 + 10) + 10,
    ),
    "RWKV channel mix": Case(ChannelMix(), delta.channel_mix, 8 * (2 * 32 + 1)),
}

ATTENTION = {
    "attention": Case(Attention(num_heads=2, max_length=LENGTH), attention.attention, 2 * 8 * 4 * (2 + 2)),
    "attention in a window": Case(Attention(num_heads=2, window=7), attention.attention, 2 * 8 * 4 * (2 + 2)),
    "attention of grouped heads": Case(
        Attention(num_heads=4, num_kv_heads=2, head_dim=6, window=16, rotary_base=100.0),
        attention.attention,
        2 * 8 * 6 * (4 + 2),
    ),
    "attention with norms, gate and half of the positions": Case(
        Attention(num_heads=4, num_kv_heads=2, head_dim=8, rotary_fraction=0.5, qk_norm="head", output_gate=True),
        attention.attention,
        2 * 8 * 8 * (4 + 2) + 2 * 8 + 8 * 4 * 8,
    ),
    "attention with norms over all heads and no positions": Case(
        Attention(num_heads=4, num_kv_heads=2, head_dim=5, rotary_fraction=0.0, qk_norm="all", out_bias=True),
        attention.attention,
        2 * 8 * 5 * (4 + 2) + 5 * (4 + 2) + 8,
    ),
    "latent attention": Case(
        LatentAttention(num_heads=2, max_length=LENGTH),
        attention.latent_attention,
        8 * (2 * (4 + 2 + 4) + 4 + 2) + 4 * (2 * (4 + 4) + 1),
    ),
    "latent attention in a window, with positions": Case(
        LatentAttention(
            num_heads=3, latent_dim=5, head_dim=3, shared_dim=4, value_head_dim=6, rotary_base=50.0, window=7
        ),
        attention.latent_attention,
        8 * (3 * (3 + 4 + 6) + 5 + 4) + 5 * (3 * (3 + 6) + 1),
    ),
}

MIXERS = {**VECTOR, **STRUCTURED, **MATRIX, **DELTA, **ATTENTION}
