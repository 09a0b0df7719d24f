"""One file per family of published checkpoints, each a table."""

from recurrax.pretrained.families import (
    delta_net,
    falcon_mamba,
    gated_deltanet,
    gla,
    kimi_linear,
    mamba,
    mamba2,
    minimax,
    olmo_hybrid,
    qwen3_next,
    recurrent_gemma,
    rwkv7,
    transnormer,
    xlstm,
)
from recurrax.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        delta_net,
        falcon_mamba,
        gated_deltanet,
        gla,
        kimi_linear,
        mamba,
        mamba2,
        minimax,
        olmo_hybrid,
        qwen3_next,
        recurrent_gemma,
        rwkv7,
        transnormer,
        xlstm,
    )
}
"""`model_type` in config.json -> the family."""
