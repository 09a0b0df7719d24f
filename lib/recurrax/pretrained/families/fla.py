"""Provides shared parts of flash-linear-attention's families (fla-hub/*): SwiGLU blocks with RMS norms and a mixer."""

import math

from recurrax.models import LanguageModelConfig
from recurrax.pretrained.rules import Rule, conv, ends, glu, matrix, same
from recurrax.projections import GLU

IGNORED_FIELDS = (
    # Kernels.
    "attn_mode",
    "fuse_norm",
    "fuse_swiglu",
    # The loss.
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "use_l2warp",
    # Without effect: there are no positions, and tensors of shared convolutions have other names.
    "max_position_embeddings",
    "share_conv_kernel",
)


def read_config(fields, mixer, num_layers=24):
    """Return the config of a model with this mixer; `num_layers` is the family's default number of layers."""
    fields.require("hidden_act", "swish")
    fields.require("attn", None)
    fields.require("attnres_block_size", None)
    # If it is true, old files have other names for the norms inside the layers.
    fields.require("norm_first", False)
    dim = fields.integer("hidden_size", 2048)
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size", 32000),
        dim=dim,
        num_layers=fields.integer("num_hidden_layers", num_layers),
        pattern=(mixer,),
        projection=GLU(hidden=_hidden(fields, dim), activation="silu"),
        norm_eps=fields.number("norm_eps", 1e-6),
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def _hidden(fields, dim):
    """Return the width of the GLU, by default two thirds of hidden_ratio times dim, rounded up to a multiple of 256."""
    ratio = fields.number("hidden_ratio", 4, null=True) or 4
    computed = 256 * math.ceil(int(dim * ratio * 2 / 3) / 256)
    return fields.integer("intermediate_size", None) or computed


def conv_width(fields, default):
    """Return the width of the short convolutions, or None without them; `default` is that of use_short_conv."""
    taps = fields.integer("conv_size", 4)
    return taps if fields.flag("use_short_conv", default) else None


def width(fields, name, default):
    """Return a total width of all heads, stated as a multiple of hidden_size. Raises ValueError if it is not whole."""
    dim = fields.integer("hidden_size", 2048)
    size = dim * fields.number(name, default)
    if abs(size - round(size)) > 1e-6 * size:
        raise ValueError(f"{fields.path}: {name} times hidden_size {dim} is {size}, which is not a whole number")
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
    """Return the rules of a block's norms and GLU, without its mixer."""
    return [
        same(f"{layer}.attn_norm.weight", "mixer_norm/scale"),
        same(f"{layer}.mlp_norm.weight", "projection_norm/scale"),
        *glu(f"{layer}.mlp"),
    ]


def projections(layer: str, conv_width: int | None) -> list[Rule]:
    """Return the rules of the query, key and value matrices, their short convolutions, and the output matrix."""
    rules = [matrix(f"{layer}.{name}_proj.weight", f"mixer/in_{name}") for name in "qkv"]
    if conv_width is not None:
        rules += [conv(f"{layer}.{name}_conv1d.weight", f"mixer/conv_{name}") for name in "qkv"]
    return [*rules, matrix(f"{layer}.o_proj.weight", "mixer/out_kernel")]
