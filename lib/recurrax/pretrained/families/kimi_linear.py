"""Maps Kimi Linear checkpoints (moonshotai/Kimi-Linear-48B-A3B, arXiv 2510.26692).

Three of four layers have KDA, the fourth has latent attention; projections are mixtures of experts.
"""

from recurrax.mixers import KDA, LatentAttention
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rules import (
    also,
    by_head,
    conv,
    ends,
    experts,
    fused,
    glu,
    matrix,
    reshaped,
    same,
    shared_expert,
)
from recurrax.projections import GLU, MixtureOfExperts


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    fields.require("q_lora_rank", None)
    fields.require("moe_router_activation_func", "sigmoid")
    fields.require("moe_layer_freq", 1)
    # Fields of the authors' own config, and of their later models with the same model_type.
    fields.require("mla_use_nope", True)
    fields.require("mla_use_output_gate", False)
    fields.require("topk_method", "noaux_tc")
    fields.require("latent_moe_use_norm", False)
    for name in ("routed_expert_hidden_size", "attn_res_block_size", "activation_situ_beta"):
        fields.require(name, None)
    # The published code reads a head whatever the value is.
    fields.flag("tie_word_embeddings", False)
    dim, heads, length = (fields.integer(name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    fields.require("num_key_value_heads", heads, None)
    eps = fields.number("rms_norm_eps", 1e-5)
    mixers = {
        "full_attention": LatentAttention(
            num_heads=heads,
            latent_dim=fields.integer("kv_lora_rank", 512),
            head_dim=fields.integer("qk_nope_head_dim", 128),
            shared_dim=fields.integer("qk_rope_head_dim", 64),
            value_head_dim=fields.integer("v_head_dim", 128),
        ),
        "linear_attention": _kda(fields, eps),
    }
    hidden = fields.integer("moe_intermediate_size", 1024)
    dense = GLU(hidden=fields.integer("intermediate_size", 9216), activation="silu")
    sparse = MixtureOfExperts(
        hidden=hidden,
        activation="silu",
        # The authors' names take precedence over those of transformers.
        num_experts=fields.integer(fields.first("num_experts", "num_local_experts"), 256),
        experts_per_token=fields.integer(fields.first("num_experts_per_token", "num_experts_per_tok"), 8),
        shared_hidden=fields.integer(fields.first("num_shared_experts", "n_shared_experts"), 1) * hidden,
        scores="sigmoid",
        normalize=fields.flag(fields.first("moe_renormalize", "norm_topk_prob"), True),
        scale=fields.number("routed_scaling_factor", 2.446),
        choice_bias=True,
        num_groups=fields.integer(fields.first("num_expert_group", "n_group"), 1),
        groups_per_token=fields.integer("topk_group", 1),
    )
    projections = {"dense": dense, "sparse": sparse}
    first = fields.integer("first_k_dense_replace", 1, least=0)
    widths = ["dense" if i < first else "sparse" for i in range(length)]
    kinds = fields.kinds("layer_types", mixers, None, length=length) or _kinds(fields, length)
    widths = fields.kinds("mlp_layer_types", projections, None, length=length) or widths
    blocks = [BlockConfig(mixers[kind], projections[width]) for kind, width in zip(kinds, widths, strict=True)]
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        **arranged(blocks),
        projection=sparse,
        norm_eps=eps,
        tied_head=False,
        embedding_scale=1.0,
    )


def _kda(fields, eps):
    """Return the KDA config, whose sizes are nested in published files and top-level in files of transformers 5."""
    linear = fields.nested("linear_attn_config")
    linear.require("use_full_rank_gate", False)
    linear.require("gate_lower_bound", None)
    # `_kinds` reads these.
    linear.ignore("full_attn_layers", "kda_layers")

    def size(name, beside, default):
        outside = fields.integer(beside, default)
        return linear.integer(name, outside)

    width = size("head_dim", "linear_head_dim", 128)
    return KDA(
        num_heads=size("num_heads", "linear_num_heads", 32),
        head_dim=width,
        value_head_dim=width,
        conv_width=size("short_conv_kernel_size", "linear_conv_kernel_dim", 4),
        norm_eps=eps,
    )


def _kinds(fields, length):
    """Return the kinds of layers from the lists of their numbers, counted from 1; by default 5, 9, 13 ... are full."""
    linear = fields.nested("linear_attn_config")
    full = linear.integers("full_attn_layers", [i + 1 for i in range(4, length, 4)])
    others = [i + 1 for i in range(length) if i + 1 not in full]
    if sorted([*full, *linear.integers("kda_layers", others)]) != list(range(1, length + 1)):
        raise ValueError(f"{linear.path}: full_attn_layers and kda_layers do not name each of {length} layers once")
    return ["full_attention" if i + 1 in full else "linear_attention" for i in range(length)]


def write_config(config):
    blocks = blocks_of(config)
    full, linear = (next(b.mixer for b in blocks if isinstance(b.mixer, kind)) for kind in (LatentAttention, KDA))
    sparse = next(block.projection for block in blocks if isinstance(block.projection, MixtureOfExperts))
    dense = [block.projection for block in blocks if isinstance(block.projection, GLU)]
    key, shared, value, latent = full.sizes(config.dim)
    hidden = sparse.width(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": dense[0].width(config.dim) if dense else 4 * config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": full.num_heads,
        "num_key_value_heads": full.num_heads,
        "kv_lora_rank": latent,
        "q_lora_rank": None,
        "qk_nope_head_dim": key,
        "qk_rope_head_dim": shared,
        "v_head_dim": value,
        "linear_num_heads": linear.num_heads,
        "linear_head_dim": linear.sizes(config.dim)[0],
        "linear_conv_kernel_dim": linear.conv_width,
        "layer_types": ["linear_attention" if isinstance(b.mixer, KDA) else "full_attention" for b in blocks],
        "mlp_layer_types": ["dense" if isinstance(block.projection, GLU) else "sparse" for block in blocks],
        "moe_intermediate_size": hidden,
        "num_experts": sparse.num_experts,
        "num_experts_per_token": sparse.experts_per_token,
        "num_shared_experts": sparse.shared_hidden // hidden,
        "num_expert_group": sparse.num_groups,
        "topk_group": sparse.groups_per_token,
        "moe_renormalize": sparse.normalize,
        "routed_scaling_factor": sparse.scale,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embed_tokens.weight", "model.norm.weight")


def block(config, block, i):
    layer = f"model.layers.{i}"
    yield same(f"{layer}.input_layernorm.weight", "mixer_norm/scale")
    yield from (kda if isinstance(block.mixer, KDA) else attention)(config, block.mixer, f"{layer}.self_attn")
    yield same(f"{layer}.post_attention_layernorm.weight", "projection_norm/scale")
    projection = f"{layer}.block_sparse_moe"
    if isinstance(block.projection, GLU):
        # transformers 5 saves them under the name of the experts.
        for rule, saved in zip(glu(f"{layer}.mlp"), glu(projection), strict=True):
            yield also(rule, *saved.theirs)
    else:
        yield matrix(f"{projection}.gate.weight", "projection/router_kernel")
        yield same(f"{projection}.gate.e_score_correction_bias", "projection/choice_bias")
        yield from experts(f"{projection}.experts", block.projection.num_experts, ("w1", "w3", "w2"))
        yield from shared_expert(f"{projection}.shared_experts")


def kda(config, mixer, layer):
    for name in "qkv":
        yield matrix(f"{layer}.{name}_proj.weight", f"mixer/in_{name}")
        yield conv(f"{layer}.{name}_conv1d.weight", f"mixer/conv_{name}")
    yield matrix(f"{layer}.f_a_proj.weight", "mixer/in_decay")
    yield matrix(f"{layer}.f_b_proj.weight", "mixer/decay_kernel")
    yield reshaped(f"{layer}.A_log", "mixer/a_log", (1, 1, mixer.num_heads, 1), (mixer.num_heads,))
    yield same(f"{layer}.dt_bias", "mixer/dt_bias")
    yield matrix(f"{layer}.b_proj.weight", "mixer/in_beta")
    yield matrix(f"{layer}.g_a_proj.weight", "mixer/in_gate")
    yield matrix(f"{layer}.g_b_proj.weight", "mixer/gate_kernel")
    yield same(f"{layer}.o_norm.weight", "mixer/norm_scale")
    yield matrix(f"{layer}.o_proj.weight", "mixer/out_kernel")


def attention(config, mixer, layer):
    key, shared, value, latent = mixer.sizes(config.dim)
    yield matrix(f"{layer}.q_proj.weight", "mixer/in_q")
    yield fused(f"{layer}.kv_a_proj_with_mqa.weight", {"mixer/in_latent": latent, "mixer/in_shared": shared})
    yield same(f"{layer}.kv_a_layernorm.weight", "mixer/norm_scale")
    kernels = {"mixer/key_kernel": key, "mixer/value_kernel": value}
    yield by_head(f"{layer}.kv_b_proj.weight", kernels, mixer.num_heads)
    yield matrix(f"{layer}.o_proj.weight", "mixer/out_kernel")


FAMILY = Family(
    "kimi_linear",
    "KimiLinearForCausalLM",
    (KDA, LatentAttention),
    read_config,
    write_config,
    model,
    block,
    ignored_fields=(
        "attention_dropout",
        "max_position_embeddings",
        "model_max_length",
        "num_nextn_predict_layers",
        "output_router_logits",
        "pretraining_tp",
        "use_grouped_topk",
        # Sums of other fields, or unused sizes.
        "head_dim",
        "qk_head_dim",
        # There are no rotary positions.
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
    ),
)
