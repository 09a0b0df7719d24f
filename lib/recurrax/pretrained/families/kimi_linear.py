"""Kimi Linear (moonshotai/Kimi-Linear-48B-A3B, arXiv 2510.26692): three KDAs to one latent attention, and experts."""

from recurrax.mixers import KDA, LatentAttention
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rules import by_head, conv, ends, experts, fused, glu, matrix, reshaped, same, shared_expert
from recurrax.projections import GLU, MixtureOfExperts


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    fields.require("q_lora_rank", None)
    fields.require("moe_router_activation_func", "sigmoid")
    fields.require("moe_layer_freq", 1)
    dim, heads, length = (fields.take(name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    eps, linear = fields.take("rms_norm_eps", 1e-5), fields.take("linear_attn_config", {})
    mixers = {
        "full_attention": LatentAttention(
            num_heads=heads,
            latent_dim=fields.take("kv_lora_rank", 512),
            head_dim=fields.take("qk_nope_head_dim", 128),
            shared_dim=fields.take("qk_rope_head_dim", 64),
            value_head_dim=fields.take("v_head_dim", 128),
        ),
        "linear_attention": KDA(
            num_heads=linear.get("num_heads", fields.take("linear_num_heads", 32)),
            head_dim=linear.get("head_dim", fields.take("linear_head_dim", 128)),
            value_head_dim=linear.get("head_dim", fields.take("linear_head_dim", 128)),
            conv_width=linear.get("short_conv_kernel_size", fields.take("linear_conv_kernel_dim", 4)),
            norm_eps=eps,
        ),
    }
    hidden = fields.take("moe_intermediate_size", 1024)
    dense = GLU(hidden=fields.take("intermediate_size", 9216), activation="silu")
    sparse = MixtureOfExperts(
        hidden=hidden,
        activation="silu",
        num_experts=fields.take("num_experts", 256),
        experts_per_token=fields.take("num_experts_per_token", 8),
        shared_hidden=fields.take("num_shared_experts", 1) * hidden,
        scores="sigmoid",
        normalize=fields.take("moe_renormalize", True),
        scale=fields.take("routed_scaling_factor", 2.446),
        choice_bias=True,
        num_groups=fields.take("num_expert_group", 1),
        groups_per_token=fields.take("topk_group", 1),
    )
    # Layers are counted from 1 in linear_attn_config.
    full = linear.get("full_attn_layers", [i + 1 for i in range(4, length, 4)])
    kinds = ["full_attention" if i + 1 in full else "linear_attention" for i in range(length)]
    first = fields.take("first_k_dense_replace", 1)
    widths = ["dense" if i < first else "sparse" for i in range(length)]
    blocks = [
        BlockConfig(mixers[kind], dense if width == "dense" else sparse)
        for kind, width in zip(fields.take("layer_types", kinds), fields.take("mlp_layer_types", widths), strict=True)
    ]
    return LanguageModelConfig(
        vocab_size=fields.take("vocab_size"),
        dim=dim,
        **arranged(blocks),
        projection=sparse,
        norm_eps=eps,
        tied_head=fields.take("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


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
        yield from glu(projection)
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


FAMILY = Family("kimi_linear", "KimiLinearForCausalLM", (KDA, LatentAttention), read_config, write_config, model, block)
