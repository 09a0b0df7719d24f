"""Maps TransNormerLLM checkpoints (OpenNLPLab/TransNormerLLM-385M, -1B, -7B, arXiv 2307.14995).

The norms have no scales, decays are not stored, and only the layers in `linear_use_lrpe_list` have positions.
"""

import math

from recurrax.mixers import TransNormerLLM
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rules import embedding_and_head, fused, matrix, reshaped
from recurrax.projections import GLU


def read_config(fields):
    fields.require("linear_act_fun", "silu", "swish")
    fields.require("norm_type", "simplermsnorm")
    fields.require("bias", False)
    fields.require("glu_act", "none")
    fields.require("causal", True)
    dim, heads = fields.integer("decoder_embed_dim", 1024), fields.integer("decoder_attention_heads", 8)
    length, hidden = fields.integer("decoder_layers", 24), fields.integer("glu_dim", 2816, least=-1)
    rotated = fields.integers("linear_use_lrpe_list", []) or length * [fields.integer("linear_use_lrpe", least=0)]
    fields.ignore("linear_use_lrpe")
    if length < 2 or len(rotated) < length:
        raise ValueError(f"{fields.path}: decoder_layers {length} needs to be 2 or more, with linear_use_lrpe for each")
    projection = GLU(hidden=dim if hidden == -1 else hidden, activation="identity")
    size = fields.integer("hidden_dim", 1024) // heads
    mixers = [
        TransNormerLLM(num_heads=heads, head_dim=size, lrpe=bool(lrpe), slopes="transnormer")
        for lrpe in rotated[:length]
    ]
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size", 64000),
        dim=dim,
        **arranged([BlockConfig(mixer, projection) for mixer in mixers]),
        projection=projection,
        norm="simple_rms",
        norm_eps=1e-6,
        tied_head=fields.flag("tie_word_embeddings", True),
        embedding_scale=1.0 if fields.flag("no_scale_embedding", False) else math.sqrt(dim),
    )


def write_config(config):
    blocks = blocks_of(config)
    mixer, width = blocks[0].mixer, blocks[0].projection.width(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "decoder_embed_dim": config.dim,
        "decoder_layers": config.num_layers,
        "decoder_attention_heads": mixer.num_heads,
        "hidden_dim": mixer.num_heads * mixer.size(config.dim),
        "glu_dim": width,
        "linear_act_fun": "silu",
        "linear_use_lrpe_list": [int(block.mixer.lrpe) for block in blocks],
        "norm_type": "simplermsnorm",
        "no_scale_embedding": config.embedding_scale == 1,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return embedding_and_head(config.tied_head, "model.embed_tokens.weight")


def block(config, block, i):
    layer, mixer = f"model.layers.{i}", block.mixer
    heads, size = mixer.num_heads, mixer.size(config.dim)
    parts = {f"mixer/in_{name}": heads * size for name in ("q", "k", "v", "gate")}
    yield fused(f"{layer}.token_mixer.qkvu_proj.weight", parts)
    if mixer.lrpe:
        yield reshaped(f"{layer}.token_mixer.lrpe.theta", "mixer/theta", (heads, 1, size), (heads, size))
    yield matrix(f"{layer}.token_mixer.out_proj.weight", "mixer/out_kernel")
    for name, kernel in (("l1", "in_gate"), ("l2", "in_kernel"), ("l3", "out_kernel")):
        yield matrix(f"{layer}.channel_mixer.{name}.weight", f"projection/{kernel}")


FAMILY = Family(
    "transnormer",
    "TransnormerForCausalLM",
    (TransNormerLLM,),
    read_config,
    write_config,
    model,
    block,
    # Initialisation, tokens, and the training length: decays and stored positions do not limit the length.
    ignored_fields=("init_std", "add_bos_token", "max_position_embeddings"),
)
