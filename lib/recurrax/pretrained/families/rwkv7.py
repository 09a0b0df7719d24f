"""Maps RWKV-7 checkpoints in flash-linear-attention's format (fla-hub/rwkv7-*, arXiv 2503.14456).

The first layer provides the value residual to the others, and has an additional norm on the embedding.
"""

import math

from recurrax.mixers import RWKV7
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.families import fla
from recurrax.pretrained.family import Family, blocks_of
from recurrax.pretrained.rules import embedding_and_head, matrix, reshaped, same
from recurrax.projections import ChannelMix

RANKS = {"decay": "w", "rate": "a", "gate": "g", "blend": "v"}


def read_config(fields):
    fields.require("hidden_act", "sqrelu")
    fields.require("norm_bias", True)
    fields.require("attn", None)
    dim, eps = fields.integer("hidden_size", 2048), fields.number("norm_eps", 1e-5)
    length, size = fields.integer("num_hidden_layers", 24), _head_dim(fields, dim)
    fields.require("value_dim", None, dim, length * [dim])

    def rank(name, default, root):
        # The published config has a default for an absent field; the published layer computes the rank for null.
        computed = max(32, 32 * round(root * math.sqrt(dim) / 32))
        return fields.integer(f"{name}_low_rank_dim", default, null=True) or computed

    first = RWKV7(
        num_heads=dim // size,
        head_dim=size,
        value_head_dim=size,
        decay_rank=rank("decay", 64, 2.5 * size / 64),
        rate_rank=rank("a", 64, 2.5 * size / 64),
        gate_rank=rank("gate", 128, 5),
        value_rank=rank("v", 16, 1.7 * size / 64),
        # Two epsilons for normalising removal keys to length 1, one per implementation.
        key_norm_eps=1e-6 if fields.flag("fuse_norm", True) else 1e-24,
        norm_eps=size * eps,
    )
    later = RWKV7(**{**vars(first), "value_residual": True})
    hidden = 32 * math.ceil(int(dim * (fields.number("hidden_ratio", 4, null=True) or 4)) / 32)
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size", 32000),
        dim=dim,
        num_layers=length,
        first=(first,),
        pattern=(later,),
        projection=ChannelMix(hidden=fields.integer("intermediate_size", None) or hidden),
        norm="layer",
        norm_eps=eps,
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
        embedding_norm=fields.flag("norm_first", True),
    )


def _head_dim(fields, dim):
    """Return the size of a head. head_dim takes precedence: num_heads of converted files is often another model's."""
    size, heads = fields.integer("head_dim", 64, null=True), fields.integer("num_heads", None)
    if size is None and heads is None:
        raise ValueError(f"{fields.path}: head_dim and num_heads are both null; one of them needs a value")
    return size or dim // heads


def write_config(config):
    mixer = blocks_of(config)[-1].mixer
    ranks, (key, value) = mixer.ranks(config.dim), mixer.sizes(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "head_dim": key,
        "num_heads": mixer.num_heads,
        "value_dim": mixer.num_heads * value,
        "decay_low_rank_dim": ranks["decay"],
        "a_low_rank_dim": ranks["rate"],
        "gate_low_rank_dim": ranks["gate"],
        "v_low_rank_dim": ranks.get("blend"),
        "intermediate_size": config.projection.width(config.dim),
        "norm_first": config.embedding_norm,
        "fuse_norm": mixer.key_norm_eps == 1e-6,
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def norm(theirs, ours):
    return same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias")


def model(config):
    yield from embedding_and_head(config.tied_head, "model.embeddings.weight")
    if config.embedding_norm:
        yield from norm("model.layers.0.pre_norm", "embedding_norm")
    yield from norm("model.norm", "backbone/norm")


def block(config, block, i):
    layer = f"model.layers.{i}"
    mixer = f"{layer}.attn"
    yield from norm(f"{layer}.attn_norm", "mixer_norm")
    for name in "rwkvag":
        yield reshaped(f"{mixer}.x_{name}", f"mixer/mix_{name}", (1, 1, -1), (-1,))
    for name in "rkv":
        yield matrix(f"{mixer}.{name}_proj.weight", f"mixer/in_{name}")
    for ours in block.mixer.ranks(config.dim):
        theirs = f"{mixer}.{RANKS[ours]}_lora.lora"
        yield matrix(f"{theirs}.0.weight", f"mixer/in_{ours}")
        yield matrix(f"{theirs}.2.weight", f"mixer/{ours}_kernel")
        if ours != "gate":
            yield same(f"{theirs}.2.bias", f"mixer/{ours}_bias")
    yield same(f"{mixer}.k_k", "mixer/removal_scale")
    yield same(f"{mixer}.k_a", "mixer/rate_scale")
    yield same(f"{mixer}.r_k", "mixer/bonus")
    yield same(f"{mixer}.g_norm.weight", "mixer/norm_scale")
    yield same(f"{mixer}.g_norm.bias", "mixer/norm_bias")
    yield matrix(f"{mixer}.o_proj.weight", "mixer/out_kernel")
    yield from norm(f"{layer}.ffn_norm", "projection_norm")
    yield same(f"{layer}.ffn.x_k", "projection/mix")
    yield matrix(f"{layer}.ffn.key.weight", "projection/in_kernel")
    yield matrix(f"{layer}.ffn.value.weight", "projection/out_kernel")


FAMILY = Family(
    "rwkv7",
    "RWKV7ForCausalLM",
    (RWKV7,),
    read_config,
    write_config,
    model,
    block,
    ignored_fields=fla.IGNORED_FIELDS,
)
