"""Maps GLA checkpoints (fla-hub/gla-*, arXiv 2312.06635). Keys, values and decays may be shared by adjacent heads."""

from recurrax.mixers import GLA
from recurrax.pretrained.families import fla
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import matrix, same


def read_config(fields):
    fields.require("feature_map", None)
    fields.require("use_output_gate", True)
    fields.require("clamp_min", None)
    fields.require("use_gk", True)
    fields.require("use_gv", False)
    fields.require("elementwise_affine", True)
    fields.require("fuse_norm", True)  # it only decides the name of the norm's scale
    heads = fields.integer("num_heads", 4)
    mixer = GLA(
        num_heads=heads,
        num_kv_heads=fields.integer("num_kv_heads", None) or heads,
        head_dim=fla.width(fields, "expand_k", 0.5) // heads,
        value_head_dim=fla.width(fields, "expand_v", 1.0) // heads,
        conv_width=fla.conv_width(fields, False),
        norm_eps=fields.number("norm_eps", 1e-6),
    )
    return fla.read_config(fields, mixer)


def write_config(config):
    mixer = config.pattern[0]
    key, value = mixer.sizes(config.dim)
    return {
        **fla.write_config(config),
        "num_heads": mixer.num_heads,
        "num_kv_heads": mixer.num_kv_heads,
        "expand_k": mixer.num_heads * key / config.dim,
        "expand_v": mixer.num_heads * value / config.dim,
        "use_short_conv": mixer.conv_width is not None,
        "conv_size": mixer.conv_width or 4,
    }


def block(config, block, i):
    layer = f"model.layers.{i}"
    mixer = f"{layer}.attn"
    return (
        *fla.around(layer),
        *fla.projections(mixer, block.mixer.conv_width),
        matrix(f"{mixer}.gk_proj.0.weight", "mixer/in_decay"),
        matrix(f"{mixer}.gk_proj.1.weight", "mixer/decay_kernel"),
        same(f"{mixer}.gk_proj.1.bias", "mixer/decay_bias"),
        matrix(f"{mixer}.g_proj.weight", "mixer/in_gate"),
        same(f"{mixer}.g_norm_swish_gate.weight", "mixer/norm_scale"),
    )


FAMILY = Family(
    "gla",
    "GLAForCausalLM",
    (GLA,),
    read_config,
    write_config,
    fla.model,
    block,
    ignored_fields=fla.IGNORED_FIELDS,
)
