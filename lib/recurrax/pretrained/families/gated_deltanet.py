"""Maps Gated DeltaNet checkpoints (fla-hub/gated_deltanet-*, arXiv 2412.06464)."""

from recurrax.mixers import GatedDeltaNet
from recurrax.pretrained.families import fla
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import matrix, same


def read_config(fields):
    fields.require("use_gate", True)
    fields.require("output_gate_activation", "swish", "silu")
    # Only old files have this field; false selects another decay.
    fields.require("use_mamba_gate", True)
    heads, key = fields.integer("num_heads", 6), fields.integer("head_dim", 256)
    mixer = GatedDeltaNet(
        num_heads=heads,
        head_dim=key,
        num_value_heads=fields.integer("num_v_heads", None) or heads,
        value_head_dim=round(key * fields.number("expand_v", 2.0)),
        negative_eigenvalues=fields.flag("allow_neg_eigval", False),
        conv_width=fla.conv_width(fields, True),
        norm_eps=fields.number("norm_eps", 1e-6),
    )
    return fla.read_config(fields, mixer, num_layers=21)


def write_config(config):
    mixer = config.pattern[0]
    key, value = mixer.sizes(config.dim)
    return {
        **fla.write_config(config),
        "num_heads": mixer.num_heads,
        "num_v_heads": mixer.value_heads,
        "head_dim": key,
        "expand_v": value / key,
        "allow_neg_eigval": mixer.negative_eigenvalues,
        "use_short_conv": mixer.conv_width is not None,
        "conv_size": mixer.conv_width or 4,
    }


def block(config, block, i):
    layer = f"model.layers.{i}"
    mixer = f"{layer}.attn"
    return (
        *fla.around(layer),
        *fla.projections(mixer, block.mixer.conv_width),
        matrix(f"{mixer}.a_proj.weight", "mixer/in_decay"),
        matrix(f"{mixer}.b_proj.weight", "mixer/in_beta"),
        same(f"{mixer}.A_log", "mixer/a_log"),
        same(f"{mixer}.dt_bias", "mixer/dt_bias"),
        matrix(f"{mixer}.g_proj.weight", "mixer/in_gate"),
        same(f"{mixer}.o_norm.weight", "mixer/norm_scale"),
    )


FAMILY = Family(
    "gated_deltanet",
    "GatedDeltaNetForCausalLM",
    (GatedDeltaNet,),
    read_config,
    write_config,
    fla.model,
    block,
    ignored=(r"model\.layers\.\d+\.attn\.D",),  # in old files, and unused
    ignored_fields=fla.IGNORED_FIELDS,
)
