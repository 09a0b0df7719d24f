"""Config files in the form that authors publish, one of every family, and the sizes of their models.

Those of mamba, falcon_mamba, mamba2, recurrent_gemma, minimax, xlstm and rwkv7 follow public copies, the last three in
parts. The others have the fields that the configuration code of transformers and of FLA reads, and the models' sizes.
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "published"


def published(family):
    """Return the fields of that family's file."""
    return json.loads((FOLDER / f"{family}.json").read_text())


# (dim, layers, tied head, hidden width of the last block's projection), {mixer: its fields}.
KNOWN = {
    # state-spaces/mamba-130m-hf
    "mamba": ((768, 24, True, None), {"Mamba": {"width": 1536, "dt_rank": 48, "state_dim": 16}}),
    # tiiuae/falcon-mamba-7b
    "falcon_mamba": ((4096, 64, False, None), {"Mamba": {"width": 8192, "dt_rank": 256, "inner_norm_eps": 1e-6}}),
    # mistralai/Mamba-Codestral-7B-v0.1
    "mamba2": ((4096, 64, False, None), {"Mamba2": {"num_heads": 128, "num_groups": 8, "dt_limit": (0, float("inf"))}}),
    # NX-AI/xLSTM-7b
    "xlstm": ((4096, 32, False, 10944), {"MLSTM": {"num_heads": 8, "head_dim": 256, "value_head_dim": 512}}),
    # google/recurrentgemma-2b
    "recurrent_gemma": (
        (2560, 26, True, 7680),
        {
            "RGLRU": {"width": 2560, "num_heads": 10},
            "Attention": {"num_kv_heads": 1, "window": 2048, "rotary_base": 10_000, "rotary_fraction": 0.5},
        },
    ),
    # MiniMaxAI/MiniMax-Text-01-hf
    "minimax": (
        (6144, 80, False, 9216),
        {
            "Lightning": {"num_heads": 64, "slopes": "minimax"},
            "Attention": {"rotary_base": 1e7, "rotary_fraction": 0.5},
        },
    ),
    # Qwen/Qwen3-Next-80B-A3B-Instruct
    "qwen3_next": (
        (2048, 48, False, 512),
        {
            "GatedDeltaNet": {"num_heads": 16, "num_value_heads": 32, "value_head_dim": 128},
            "Attention": {"num_kv_heads": 2, "rotary_base": 1e7, "rotary_fraction": 0.25},
        },
    ),
    # allenai/Olmo-Hybrid-7B
    "olmo_hybrid": (
        (3840, 32, False, 11008),
        {
            "GatedDeltaNet": {"num_heads": 30, "head_dim": 96, "value_head_dim": 192, "negative_eigenvalues": True},
            "Attention": {"num_heads": 30, "rotary_fraction": 0},
        },
    ),
    # moonshotai/Kimi-Linear-48B-A3B-Instruct
    "kimi_linear": (
        (2304, 27, False, 1024),
        {"KDA": {"num_heads": 32, "head_dim": 128}, "LatentAttention": {"latent_dim": 512, "shared_dim": 64}},
    ),
    # fla-hub/gla-1.3B-100B
    "gla": ((2048, 24, False, 5632), {"GLA": {"head_dim": 256, "value_head_dim": 512, "conv_width": None}}),
    # fla-hub/delta_net-1.3B-100B
    "delta_net": ((2048, 24, False, 5632), {"DeltaNet": {"num_heads": 16, "head_dim": 128, "conv_width": 4}}),
    # m-a-p/1.3B-100B-GatedDeltaNet-pure
    "gated_deltanet": ((2048, 24, False, 5632), {"GatedDeltaNet": {"num_value_heads": 6, "value_head_dim": 512}}),
    # RWKV/RWKV7-Goose-Pile-168M-HF
    "rwkv7": ((768, 12, False, 3072), {"RWKV7": {"num_heads": 12, "decay_rank": 64, "gate_rank": 128}}),
    # OpenNLPLab/TransNormerLLM-385M
    "transnormer": (
        (1024, 24, False, 2816),
        {"TransNormerLLM": {"num_heads": 8, "head_dim": 128, "slopes": "transnormer"}},
    ),
}
