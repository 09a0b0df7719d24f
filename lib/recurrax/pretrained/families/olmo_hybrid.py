"""Maps OLMo Hybrid checkpoints (allenai/Olmo-Hybrid-7B): pre-norm Gated DeltaNets and OLMo 2's post-norm attention."""

from recurrax.mixers import Attention, GatedDeltaNet
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rotary import BUFFERS, read_rotary, write_rotary
from recurrax.pretrained.rules import also, conv, ends, glu, matrix, same
from recurrax.projections import GLU


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    # The authors' converter writes this field; false is a layer without its gate.
    fields.require("linear_use_gate", True)
    fields.require("sliding_window", None)
    dim, heads, length = (fields.integer(name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    eps = fields.number("rms_norm_eps", 1e-6)
    # The authors' converter writes null for models without positions.
    theta, _ = read_rotary(fields, null_theta=True)
    projection = GLU(hidden=fields.integer("intermediate_size", 11008), activation="silu")
    key_heads = fields.integer("linear_num_key_heads", None) or heads
    key = fields.integer("linear_key_head_dim", None) or 3 * dim // (4 * key_heads)
    attention = Attention(
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", None) or heads,
        head_dim=fields.integer("head_dim", dim // heads),
        **({"rotary_fraction": 0.0} if theta is None else {"rotary_base": theta}),
        qk_norm="all",
        norm_eps=eps,
    )
    linear = GatedDeltaNet(
        num_heads=key_heads,
        head_dim=key,
        num_value_heads=fields.integer("linear_num_value_heads", None) or heads,
        value_head_dim=fields.integer("linear_value_head_dim", None) or 2 * key,
        negative_eigenvalues=fields.flag("linear_allow_neg_eigval", True),
        conv_width=fields.integer("linear_conv_kernel_dim", 4),
        norm_eps=1e-5,
    )
    blocks = {
        "full_attention": BlockConfig(attention, projection, "post_norm"),
        "linear_attention": BlockConfig(linear, projection),
    }
    kinds = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(length)]
    if "full_attention" not in kinds:
        kinds[-1] = "full_attention"
    kinds = fields.kinds("layer_types", blocks, None, length=length) or kinds
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        **arranged([blocks[kind] for kind in kinds]),
        projection=projection,
        norm_eps=eps,
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def write_config(config):
    blocks = blocks_of(config)
    full, linear = (next(b.mixer for b in blocks if isinstance(b.mixer, kind)) for kind in (Attention, GatedDeltaNet))
    kv_heads, size = full.kv_heads(config.dim)
    key, value = linear.sizes(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": blocks[0].projection.width(config.dim),
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": full.num_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "rope_parameters": write_rotary(full.rotary_base if full.rotary_fraction else None),
        "linear_num_key_heads": linear.num_heads,
        "linear_key_head_dim": key,
        "linear_num_value_heads": linear.value_heads,
        "linear_value_head_dim": value,
        "linear_conv_kernel_dim": linear.conv_width,
        "linear_allow_neg_eigval": linear.negative_eigenvalues,
        "layer_types": ["full_attention" if isinstance(b.mixer, Attention) else "linear_attention" for b in blocks],
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embed_tokens.weight", "model.norm.weight")


def block(config, block, i):
    layer = f"model.layers.{i}"
    yield from glu(f"{layer}.mlp")
    if isinstance(block.mixer, Attention):
        mixer = f"{layer}.self_attn"
        # transformers 5 saves it under the name of the linear layers' norm.
        norm = same(f"{layer}.post_attention_layernorm.weight", "mixer_norm/scale")
        yield also(norm, f"{layer}.feedforward_layer_norm.weight")
        yield same(f"{layer}.post_feedforward_layernorm.weight", "projection_norm/scale")
        for name in "qkv":
            yield matrix(f"{mixer}.{name}_proj.weight", f"mixer/in_{name}")
        yield same(f"{mixer}.q_norm.weight", "mixer/q_norm_scale")
        yield same(f"{mixer}.k_norm.weight", "mixer/k_norm_scale")
    else:
        mixer = f"{layer}.linear_attn"
        yield same(f"{layer}.attention_layer_norm.weight", "mixer_norm/scale")
        yield same(f"{layer}.feedforward_layer_norm.weight", "projection_norm/scale")
        for name in "qkv":
            yield matrix(f"{mixer}.{name}_proj.weight", f"mixer/in_{name}")
            yield conv(f"{mixer}.{name}_conv1d.weight", f"mixer/conv_{name}")
        for theirs, ours in (("a_proj", "in_decay"), ("b_proj", "in_beta"), ("g_proj", "in_gate")):
            yield matrix(f"{mixer}.{theirs}.weight", f"mixer/{ours}")
        yield same(f"{mixer}.A_log", "mixer/a_log")
        yield same(f"{mixer}.dt_bias", "mixer/dt_bias")
        yield same(f"{mixer}.o_norm.weight", "mixer/norm_scale")
    yield matrix(f"{mixer}.o_proj.weight", "mixer/out_kernel")


FAMILY = Family(
    "olmo_hybrid",
    "OlmoHybridForCausalLM",
    (Attention, GatedDeltaNet),
    read_config,
    write_config,
    model,
    block,
    # Heads for multi-token prediction; transformers does not read them either.
    ignored=(r"mtp\..*", *BUFFERS),
    ignored_fields=(
        "attention_dropout",
        "fla_hybrid_attention_indices",
        "linear_a_log_max",
        "linear_a_log_min",
        "linear_dt_init_floor",
        "linear_dt_max",
        "linear_dt_min",
        "max_position_embeddings",
    ),
)
