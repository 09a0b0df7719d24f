"""Maps xLSTM checkpoints (NX-AI/xLSTM-7b, arXiv 2503.13427)."""

from recurrax.mixers import MLSTM
from recurrax.models import LanguageModelConfig
from recurrax.pretrained.family import Family
from recurrax.pretrained.rules import ends, matrix, same
from recurrax.projections import GLU


def read_config(fields):
    fields.require("use_bias", False)
    fields.require("add_out_norm", True)
    fields.require("weight_mode", "single")
    # The published code reads a head whatever the value is.
    fields.flag("tie_word_embeddings", False)
    # The published file has the authors' names; files of transformers have both.
    dim = _same(fields, "hidden_size", "embedding_dim")
    length = _same(fields, "num_hidden_layers", "num_blocks")
    heads, eps = fields.integer("num_heads", 8), fields.number("norm_eps", 1e-6)
    multiple = fields.integer("ffn_round_up_to_multiple_of", 64)
    hidden = int(fields.number("ffn_proj_factor", 2.667) * dim)
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        num_layers=length,
        pattern=(
            MLSTM(
                num_heads=heads,
                head_dim=int(fields.number("qk_dim_factor", 0.5) * dim) // heads,
                value_head_dim=int(fields.number("v_dim_factor", 1.0) * dim) // heads,
                gate_soft_cap=fields.number("gate_soft_cap", 15.0),
                eps=fields.number("eps", 1e-6),
                norm_eps=eps,
            ),
        ),
        projection=GLU(hidden=-(-hidden // multiple) * multiple, activation="silu"),
        norm_eps=eps,
        tied_head=False,
        embedding_scale=1.0,
        logit_soft_cap=fields.number("output_logit_soft_cap", 30.0),
    )


def _same(fields, name, other):
    """Return a size that has two names. Raises ValueError if the file has neither or if the two values differ."""
    sizes = [fields.integer(each, None) for each in (name, other)]
    stated = {size for size in sizes if size is not None}
    if len(stated) > 1:
        raise ValueError(f"{fields.path}: {name} {sizes[0]} and {other} {sizes[1]} are one size; they differ")
    return stated.pop() if stated else fields.integer(name)


def write_config(config):
    mixer = config.pattern[0]
    key, value = mixer.sizes(config.dim)
    hidden = config.projection.width(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "embedding_dim": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_blocks": config.num_layers,
        "num_heads": mixer.num_heads,
        "qk_dim_factor": mixer.num_heads * key / config.dim,
        "v_dim_factor": mixer.num_heads * value / config.dim,
        # The width is also the multiple, because the factor alone could be off by one after rounding.
        "ffn_proj_factor": hidden / config.dim,
        "ffn_round_up_to_multiple_of": hidden,
        "gate_soft_cap": mixer.gate_soft_cap,
        "output_logit_soft_cap": config.logit_soft_cap,
        "eps": mixer.eps,
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "backbone.embeddings.weight", "backbone.out_norm.weight")


def block(config, block, i):
    layer = f"backbone.blocks.{i}"
    mixer = f"{layer}.mlstm_layer"
    return (
        same(f"{layer}.norm_mlstm.weight", "mixer_norm/scale"),
        *(matrix(f"{mixer}.{name}.weight", f"mixer/in_{name}") for name in "qkv"),
        matrix(f"{mixer}.igate_preact.weight", "mixer/in_input_gate"),
        same(f"{mixer}.igate_preact.bias", "mixer/input_gate_bias"),
        matrix(f"{mixer}.fgate_preact.weight", "mixer/in_forget_gate"),
        same(f"{mixer}.fgate_preact.bias", "mixer/forget_gate_bias"),
        matrix(f"{mixer}.ogate_preact.weight", "mixer/in_gate"),
        same(f"{mixer}.multihead_norm.weight", "mixer/norm_scale"),
        matrix(f"{mixer}.out_proj.weight", "mixer/out_kernel"),
        same(f"{layer}.norm_ffn.weight", "projection_norm/scale"),
        matrix(f"{layer}.ffn.proj_up_gate.weight", "projection/in_gate"),
        matrix(f"{layer}.ffn.proj_up.weight", "projection/in_kernel"),
        matrix(f"{layer}.ffn.proj_down.weight", "projection/out_kernel"),
    )


FAMILY = Family(
    "xlstm",
    "xLSTMForCausalLM",
    (MLSTM,),
    read_config,
    write_config,
    model,
    block,
    ignored_fields=(
        # Kernels, and their dtypes.
        "autocast_kernel_dtype",
        "chunk_size",
        "chunkwise_kernel",
        "inference_state_dtype",
        "max_inference_chunksize",
        "mode",
        "norm_reduction_force_float32",
        "return_last_states",
        "sequence_kernel",
        "step_kernel",
    ),
)
