"""One file per family of published checkpoints, each a table."""

from recurrax.pretrained.families import (
    falcon_mamba,
    mamba,
    mamba2,
    minimax,
    olmo_hybrid,
    qwen3_next,
    recurrent_gemma,
    xlstm,
)
from recurrax.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        falcon_mamba,
        mamba,
        mamba2,
        minimax,
        olmo_hybrid,
        qwen3_next,
        recurrent_gemma,
        xlstm,
    )
}
"""`model_type` in config.json -> the family."""
