"""Maps RecurrentGemma checkpoints (google/recurrentgemma-2b, -9b, arXiv 2404.07839): Griffin.

The embedding and the norms are Gemma's.
"""

import math

import ml_dtypes
import numpy as np

from recurrax.mixers import RGLRU, Attention
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.family import Family, blocks_of
from recurrax.pretrained.rotary import BUFFERS, read_rotary, write_rotary
from recurrax.pretrained.rules import centred, conv, ends, matrix, reshaped, same
from recurrax.projections import GLU


def embedding_scale(dim):
    """Return sqrt(dim) rounded to bfloat16, with which the models were trained."""
    return float(np.asarray(math.sqrt(dim), ml_dtypes.bfloat16))


def read_config(fields):
    fields.require("hidden_activation", "gelu_pytorch_tanh")
    fields.require("attention_bias", False)
    # A field of the authors' own config; the published code always multiplies.
    fields.require("embeddings_scale_by_sqrt_dim", True)
    dim, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads", 10)
    theta, fraction = read_rotary(fields, fraction=0.5)
    window = fields.first("sliding_window", "attention_window_size")
    mixers = {
        "recurrent": RGLRU(
            width=fields.integer("lru_width", None) or dim,
            num_heads=heads,
            conv_width=fields.integer("conv1d_width", 4),
            bias=True,
            unit_start=True,
        ),
        "attention": Attention(
            num_heads=heads,
            num_kv_heads=fields.integer("num_key_value_heads", None) or heads,
            head_dim=fields.integer("head_dim", dim // heads),
            window=fields.integer(window, 2048),
            rotary_base=theta,
            rotary_fraction=fraction,
            out_bias=True,
        ),
    }
    # The published file uses the second name.
    kinds = fields.kinds(fields.first("block_types", "_block_types"), mixers, ["recurrent", "recurrent", "attention"])
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        num_layers=fields.integer("num_hidden_layers"),
        pattern=tuple(mixers[kind] for kind in kinds),
        projection=GLU(hidden=fields.integer("intermediate_size") // 2, activation="gelu", bias=True),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        tied_head=fields.flag("tie_word_embeddings", True),
        embedding_scale=embedding_scale(dim),
        logit_soft_cap=fields.number("logits_soft_cap", 30.0),
    )


def write_config(config):
    mixers = {type(block.mixer): block.mixer for block in blocks_of(config)}
    recurrent, attention = mixers[RGLRU], mixers[Attention]
    kv_heads, head_dim = attention.kv_heads(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": 2 * config.projection.width(config.dim),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "attention_window_size": attention.window,
        "lru_width": recurrent.width or config.dim,
        "conv1d_width": recurrent.conv_width,
        "rope_parameters": write_rotary(attention.rotary_base, attention.rotary_fraction),
        "block_types": ["recurrent" if isinstance(mixer, RGLRU) else "attention" for mixer in config.pattern],
        "logits_soft_cap": config.logit_soft_cap,
        "rms_norm_eps": config.norm_eps,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embed_tokens.weight", "model.final_norm.weight", centred)


def block(config, block, i):
    layer = f"model.layers.{i}"
    yield centred(f"{layer}.temporal_pre_norm.weight", "mixer_norm/scale")
    yield from (recurrent if isinstance(block.mixer, RGLRU) else attention)(
        config, block.mixer, f"{layer}.temporal_block"
    )
    yield centred(f"{layer}.channel_pre_norm.weight", "projection_norm/scale")
    for theirs, kernel, bias in (
        ("gate_proj", "in_gate", "bias_gate"),
        ("up_proj", "in_kernel", "bias_in"),
        ("down_proj", "out_kernel", "bias_out"),
    ):
        yield matrix(f"{layer}.mlp_block.{theirs}.weight", f"projection/{kernel}")
        yield same(f"{layer}.mlp_block.{theirs}.bias", f"projection/{bias}")


def recurrent(config, mixer, theirs):
    width = mixer.width or config.dim
    per_head = (mixer.num_heads, width // mixer.num_heads)
    for name, kernel, bias in (
        ("linear_y", "in_gate", "bias_gate"),
        ("linear_x", "in_kernel", "bias_in"),
        ("linear_out", "out_kernel", "bias_out"),
    ):
        yield matrix(f"{theirs}.{name}.weight", f"mixer/{kernel}")
        yield same(f"{theirs}.{name}.bias", f"mixer/{bias}")
    yield conv(f"{theirs}.conv_1d.weight", "mixer/conv_kernel")
    yield same(f"{theirs}.conv_1d.bias", "mixer/conv_bias")
    for name, gate in (("input_gate", "input_gate"), ("recurrent_gate", "recurrence_gate")):
        yield same(f"{theirs}.rg_lru.{name}_weight", f"mixer/{gate}_kernel")
        yield reshaped(f"{theirs}.rg_lru.{name}_bias", f"mixer/{gate}_bias", per_head, (width,))
    yield same(f"{theirs}.rg_lru.recurrent_param", "mixer/decay")


def attention(config, mixer, theirs):
    for name in "qkv":
        yield matrix(f"{theirs}.{name}_proj.weight", f"mixer/in_{name}")
    yield matrix(f"{theirs}.o_proj.weight", "mixer/out_kernel")
    yield same(f"{theirs}.o_proj.bias", "mixer/bias")


FAMILY = Family(
    "recurrent_gemma",
    "RecurrentGemmaForCausalLM",
    (RGLRU, Attention),
    read_config,
    write_config,
    model,
    block,
    ignored=BUFFERS,
    ignored_fields=("attention_dropout", "final_w_init_variance_scale", "w_init_variance_scale"),
)
