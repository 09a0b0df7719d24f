"""What families of the flash-linear-attention hub (fla-hub/*) share: SwiGLU blocks with RMS norms around a mixer."""

import math

from recurrax.models import LanguageModelConfig
from recurrax.pretrained.rules import Rule, conv, ends, glu, matrix, same
from recurrax.projections import GLU


def read_config(fields, mixer, num_layers=24):
    """The model of such blocks; `num_layers` is the family's default."""
    fields.require("hidden_act", "swish")
    fields.require("attn", None)
    fields.require("attnres_block_size", None)
    dim = fields.take("hidden_size", 2048)
    # Two thirds of the ratio, because a gated unit has three matrices, and then a multiple of 256.
    hidden = 256 * math.ceil(int(dim * fields.take("hidden_ratio", 4) * 2 / 3) / 256)
    return LanguageModelConfig(
        vocab_size=fields.take("vocab_size", 32000),
        dim=dim,
        num_layers=fields.take("num_hidden_layers", num_layers),
        pattern=(mixer,),
        projection=GLU(hidden=fields.take("intermediate_size", hidden), activation="silu"),
        norm_eps=fields.take("norm_eps", 1e-6),
        tied_head=fields.take("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def width(fields, name, default):
    """A width of all heads, given as a multiple of the model's."""
    dim = fields.take("hidden_size", 2048)
    size = dim * fields.take(name, default)
    if abs(size - round(size)) > 1e-6 * size:
        raise ValueError(f"{fields.path}: {name} times hidden_size {dim} is {size}, which is no whole number")
    return round(size)


def write_config(config):
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.projection.width(config.dim),
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embeddings.weight", "model.norm.weight")


def around(layer: str) -> list[Rule]:
    """All of a block but its mixer."""
    return [
        same(f"{layer}.attn_norm.weight", "mixer_norm/scale"),
        same(f"{layer}.mlp_norm.weight", "projection_norm/scale"),
        *glu(f"{layer}.mlp"),
    ]


def projections(layer: str, conv_width: int | None) -> list[Rule]:
    """Queries, keys and values with their short convolutions, and the output matrix."""
    rules = [matrix(f"{layer}.{name}_proj.weight", f"mixer/in_{name}") for name in "qkv"]
    if conv_width is not None:
        rules += [conv(f"{layer}.{name}_conv1d.weight", f"mixer/conv_{name}") for name in "qkv"]
    return [*rules, matrix(f"{layer}.o_proj.weight", "mixer/out_kernel")]
