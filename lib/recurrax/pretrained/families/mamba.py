"""Maps Mamba checkpoints (state-spaces/mamba-*-hf, arXiv 2312.00752)."""

import math

from recurrax.mixers import Mamba
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import conv, ends, fused, matrix, same

IGNORED_FIELDS = (
    # Initialisation.
    "rescale_prenorm_residual",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    # The dtype of the residual stream, and the choice of kernels.
    "residual_in_fp32",
    "fused_add_norm",
    "use_associative_scan",
    "use_falcon_mambapy",
    "use_mambapy",
    # The authors' own names of sizes, which files have beside those that are read.
    "d_inner",
    "d_model",
    "n_layer",
    "pad_vocab_size_multiple",
)


def read_config(fields, inner_norm_eps=None):
    read_common(fields)
    dim = fields.integer("hidden_size")
    # A stated intermediate_size takes precedence: Falcon Mamba 7B says expand 16 although its width is 2 dim
    # (transformers#39728).
    expand = fields.number("expand", 2)
    mixer = Mamba(
        width=fields.integer("intermediate_size", int(expand * dim)),
        state_dim=fields.integer("state_size", 16),
        dt_rank=_dt_rank(fields, dim),
        conv_width=fields.integer("conv_kernel", 4),
        inner_norm_eps=inner_norm_eps,
    )
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        num_layers=fields.integer("num_hidden_layers"),
        pattern=(mixer,),
        projection=None,
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        tied_head=fields.flag("tie_word_embeddings", True),
        embedding_scale=1.0,
    )


def read_common(fields):
    """Raise ValueError unless the settings that Mamba and Mamba-2 share have the one supported value each."""
    fields.require("hidden_act", "silu")
    fields.require("use_bias", False)
    fields.require("use_conv_bias", True)
    # Fields of the authors' own config.
    fields.require("rms_norm", True)
    fields.require("ssm_cfg", {}, None)


def _dt_rank(fields, dim):
    """Return the rank of the step size's matrix: ceil(dim / 16) if the field is "auto" or absent."""
    if fields.values.get("time_step_rank", "auto") == "auto":
        fields.ignore("time_step_rank")
        return math.ceil(dim / 16)
    return fields.integer("time_step_rank")


def write_config(config):
    mixer = config.pattern[0]
    width, rank = mixer.sizes(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "expand": width // config.dim,
        # It takes precedence over expand, so a width that is not a multiple of dim is exact.
        "intermediate_size": width,
        "state_size": mixer.state_dim,
        "time_step_rank": rank,
        "conv_kernel": mixer.conv_width,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    authors = ("backbone.embedding.weight",)
    return ends(config.tied_head, "backbone.embeddings.weight", "backbone.norm_f.weight", aliases=authors)


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


FAMILY = Family(
    "mamba",
    "MambaForCausalLM",
    (Mamba,),
    read_config,
    write_config,
    model,
    block,
    ignored_fields=IGNORED_FIELDS,
)
