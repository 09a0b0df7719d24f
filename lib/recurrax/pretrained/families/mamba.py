"""Mamba (state-spaces/mamba-*-hf, arXiv 2312.00752)."""

import math

from recurrax.mixers import Mamba
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import conv, ends, fused, matrix, same


def read_config(fields, inner_norm_eps=None):
    fields.require("hidden_act", "silu")
    fields.require("use_bias", False)
    fields.require("use_conv_bias", True)
    dim, rank = fields.take("hidden_size"), fields.take("time_step_rank", "auto")
    mixer = Mamba(
        width=fields.take("expand", 2) * dim,
        state_dim=fields.take("state_size", 16),
        dt_rank=math.ceil(dim / 16) if rank == "auto" else rank,
        conv_width=fields.take("conv_kernel", 4),
        inner_norm_eps=inner_norm_eps,
    )
    return LanguageModelConfig(
        vocab_size=fields.take("vocab_size"),
        dim=dim,
        num_layers=fields.take("num_hidden_layers"),
        pattern=(mixer,),
        projection=None,
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
        tied_head=fields.take("tie_word_embeddings", True),
        embedding_scale=1.0,
    )


def write_config(config):
    mixer = config.pattern[0]
    width, rank = mixer.sizes(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "expand": width // config.dim,
        "state_size": mixer.state_dim,
        "time_step_rank": rank,
        "conv_kernel": mixer.conv_width,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "backbone.embeddings.weight", "backbone.norm_f.weight")


def block(config, block, i):
    layer, (width, _) = f"backbone.layers.{i}", block.mixer.sizes(config.dim)
    return (
        same(f"{layer}.norm.weight", "mixer_norm/scale"),
        fused(f"{layer}.mixer.in_proj.weight", {"mixer/in_u": width, "mixer/in_gate": width}),
        conv(f"{layer}.mixer.conv1d.weight", "mixer/conv_u"),
        same(f"{layer}.mixer.conv1d.bias", "mixer/conv_u_bias"),
        matrix(f"{layer}.mixer.x_proj.weight", "mixer/select_kernel"),
        matrix(f"{layer}.mixer.dt_proj.weight", "mixer/dt_kernel"),
        same(f"{layer}.mixer.dt_proj.bias", "mixer/dt_bias"),
        same(f"{layer}.mixer.A_log", "mixer/a_log"),
        same(f"{layer}.mixer.D", "mixer/skip"),
        matrix(f"{layer}.mixer.out_proj.weight", "mixer/out_kernel"),
    )


FAMILY = Family("mamba", "MambaForCausalLM", (Mamba,), read_config, write_config, model, block)
