"""Maps DeltaNet checkpoints (fla-hub/delta_net-*, arXiv 2406.06484)."""

from recurrax.mixers import DeltaNet
from recurrax.pretrained.families import fla
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import matrix, same


def read_config(fields):
    fields.require("use_beta", True)
    fields.require("use_output_norm", True)
    fields.require("qk_norm", "l2")
    fields.require("qk_activation", "silu")
    heads = fields.integer("num_heads", 16)
    mixer = DeltaNet(
        num_heads=heads,
        head_dim=fla.width(fields, "expand_k", 1.0) // heads,
        value_head_dim=fla.width(fields, "expand_v", 1.0) // heads,
        negative_eigenvalues=fields.flag("allow_neg_eigval", False),
        output_gate=fields.flag("use_gate", False),
        conv_width=fla.conv_width(fields, True),
        norm_eps=fields.number("norm_eps", 1e-6),
    )
    return fla.read_config(fields, mixer)


def write_config(config):
    mixer = config.pattern[0]
    key, value = mixer.sizes(config.dim)
    return {
        **fla.write_config(config),
        "num_heads": mixer.num_heads,
        "expand_k": mixer.num_heads * key / config.dim,
        "expand_v": mixer.num_heads * value / config.dim,
        "allow_neg_eigval": mixer.negative_eigenvalues,
        "use_gate": mixer.output_gate,
        "use_short_conv": mixer.conv_width is not None,
        "conv_size": mixer.conv_width or 4,
    }


def block(config, block, i):
    layer = f"model.layers.{i}"
    mixer = f"{layer}.attn"
    yield from fla.around(layer)
    yield from fla.projections(mixer, block.mixer.conv_width)
    yield matrix(f"{mixer}.b_proj.weight", "mixer/in_beta")
    yield same(f"{mixer}.o_norm.weight", "mixer/norm_scale")
    if block.mixer.output_gate:
        yield matrix(f"{mixer}.g_proj.weight", "mixer/in_gate")


FAMILY = Family(
    "delta_net",
    "DeltaNetForCausalLM",
    (DeltaNet,),
    read_config,
    write_config,
    fla.model,
    block,
    ignored=(r"model\.layers\.\d+\.attn\.norm\.weight",),  # in old files, and unused
    ignored_fields=fla.IGNORED_FIELDS,
)
