"""Mamba-2 (mistralai/Mamba-Codestral-7B and state-spaces/mamba2-* in transformers' form, arXiv 2405.21060)."""

from recurrax.mixers import Mamba2
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.families import mamba
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import fused, fused_conv, matrix, same


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("use_bias", False)
    fields.require("use_conv_bias", True)
    # JSON has no infinity; some writers spell it as a string.
    low, high = (float(bound) for bound in fields.take("time_step_limit", (0.0, float("inf"))))
    mixer = Mamba2(
        num_heads=fields.take("num_heads", 128),
        head_dim=fields.take("head_dim", 64),
        state_dim=fields.take("state_size", 128),
        num_groups=fields.take("n_groups", 8),
        conv_width=fields.take("conv_kernel", 4),
        dt_limit=(low, high),
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
    )
    return LanguageModelConfig(
        vocab_size=fields.take("vocab_size"),
        dim=fields.take("hidden_size"),
        num_layers=fields.take("num_hidden_layers"),
        pattern=(mixer,),
        projection=None,
        norm_eps=mixer.norm_eps,
        tied_head=fields.take("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def write_config(config):
    mixer = config.pattern[0]
    size = mixer.size(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "expand": mixer.num_heads * size // config.dim,
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


FAMILY = Family("mamba2", "Mamba2ForCausalLM", (Mamba2,), read_config, write_config, mamba.model, block)
