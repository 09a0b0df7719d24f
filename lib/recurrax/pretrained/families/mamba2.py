"""Maps Mamba-2 checkpoints (mistralai/Mamba-Codestral-7B, converted state-spaces/mamba2-*, arXiv 2405.21060)."""

import math

from recurrax.mixers import Mamba2
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.families import mamba
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import fused, fused_conv, matrix, same


def read_config(fields):
    mamba.read_common(fields)
    dim, expand = fields.integer("hidden_size"), fields.number("expand", 2)
    heads, size = fields.integer("num_heads", 128), fields.integer("head_dim", 64)
    if abs(heads * size - expand * dim) > 1e-6 * heads * size:
        raise ValueError(
            f"{fields.path}: num_heads {heads} times head_dim {size} is {heads * size}; it would have to be expand "
            f"{expand} times hidden_size {dim}"
        )
    mixer = Mamba2(
        num_heads=heads,
        head_dim=size,
        state_dim=fields.integer("state_size", 128),
        num_groups=fields.integer("n_groups", 8),
        conv_width=fields.integer("conv_kernel", 4),
        dt_limit=fields.bounds("time_step_limit", (0.0, math.inf)),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
    )
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        num_layers=fields.integer("num_hidden_layers"),
        pattern=(mixer,),
        projection=None,
        norm_eps=mixer.norm_eps,
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def write_config(config):
    mixer = config.pattern[0]
    size = mixer.size(config.dim)
    width = mixer.num_heads * size
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        # transformers 5 requires a whole number to be written as an integer.
        "expand": width / config.dim if width % config.dim else width // config.dim,
        "num_heads": mixer.num_heads,
        "head_dim": size,
        "state_size": mixer.state_dim,
        "n_groups": mixer.num_groups,
        "conv_kernel": mixer.conv_width,
        "time_step_limit": list(mixer.dt_limit),
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def block(config, block, i):
    layer, mixer = f"backbone.layers.{i}", block.mixer
    widths = mixer.widths(config.dim)
    inputs = {"gate": widths["u"], **widths, "dt": mixer.num_heads}
    return (
        same(f"{layer}.norm.weight", "mixer_norm/scale"),
        fused(f"{layer}.mixer.in_proj.weight", {f"mixer/in_{name}": width for name, width in inputs.items()}),
        fused_conv(f"{layer}.mixer.conv1d.weight", {f"mixer/conv_{name}": width for name, width in widths.items()}),
        fused(f"{layer}.mixer.conv1d.bias", {f"mixer/conv_{name}_bias": width for name, width in widths.items()}),
        same(f"{layer}.mixer.dt_bias", "mixer/dt_bias"),
        same(f"{layer}.mixer.A_log", "mixer/a_log"),
        same(f"{layer}.mixer.D", "mixer/skip"),
        same(f"{layer}.mixer.norm.weight", "mixer/norm_scale"),
        matrix(f"{layer}.mixer.out_proj.weight", "mixer/out_kernel"),
    )


FAMILY = Family(
    "mamba2",
    "Mamba2ForCausalLM",
    (Mamba2,),
    read_config,
    write_config,
    mamba.model,
    block,
    ignored_fields=(
        *mamba.IGNORED_FIELDS,
        # The width, which follows from expand; the rank, which Mamba-2 does not have; the chunk size of a kernel.
        "intermediate_size",
        "time_step_rank",
        "chunk_size",
        # Codestral Mamba says true; the published code always normalises after the gate.
        "norm_before_gate",
    ),
)
