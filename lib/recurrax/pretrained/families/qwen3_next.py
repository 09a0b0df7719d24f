"""Maps Qwen3-Next checkpoints (Qwen/Qwen3-Next-80B-A3B): Gated DeltaNet and gated attention, 3:1, with experts."""

from recurrax.mixers import Attention, GatedDeltaNet
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rotary import BUFFERS, read_rotary, write_rotary
from recurrax.pretrained.rules import by_head, centred, ends, experts, fused_conv, glu, matrix, same, shared_expert
from recurrax.projections import GLU, MixtureOfExperts


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("attention_bias", False)
    fields.require("use_sliding_window", False)
    dim, heads, length = (fields.integer(name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    eps = fields.number("rms_norm_eps", 1e-6)
    theta, fraction = read_rotary(fields, fraction=0.25)
    mixers = {
        "full_attention": Attention(
            num_heads=heads,
            num_kv_heads=fields.integer("num_key_value_heads", 2),
            head_dim=fields.integer("head_dim", 256),
            rotary_base=theta,
            rotary_fraction=fraction,
            qk_norm="head",
            norm_eps=eps,
            output_gate=True,
        ),
        "linear_attention": GatedDeltaNet(
            num_heads=fields.integer("linear_num_key_heads", 16),
            head_dim=fields.integer("linear_key_head_dim", 128),
            num_value_heads=fields.integer("linear_num_value_heads", 32),
            value_head_dim=fields.integer("linear_value_head_dim", 128),
            conv_width=fields.integer("linear_conv_kernel_dim", 4),
            norm_eps=eps,
        ),
    }
    dense = GLU(hidden=fields.integer("intermediate_size", 5632), activation="silu")
    sparse = MixtureOfExperts(
        hidden=fields.integer("moe_intermediate_size", 512),
        activation="silu",
        num_experts=fields.integer("num_experts", 512),
        experts_per_token=fields.integer("num_experts_per_tok", 10),
        shared_hidden=fields.integer("shared_expert_intermediate_size", 512),
        shared_gate=True,
        normalize=fields.flag("norm_topk_prob", True),
    )
    interval, step = fields.integer("full_attention_interval", 4), fields.integer("decoder_sparse_step", 1)
    kinds = ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(length)]
    only = fields.integers("mlp_only_layers", None) or []
    blocks = [
        BlockConfig(mixers[kind], dense if i in only or (i + 1) % step else sparse)
        for i, kind in enumerate(fields.kinds("layer_types", mixers, None, length=length) or kinds)
    ]
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        **arranged(blocks),
        projection=sparse,
        norm_eps=eps,
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def write_config(config):
    blocks = blocks_of(config)
    full, linear = (next(b.mixer for b in blocks if isinstance(b.mixer, kind)) for kind in (Attention, GatedDeltaNet))
    sparse = next(block.projection for block in blocks if isinstance(block.projection, MixtureOfExperts))
    dense = [i for i, block in enumerate(blocks) if isinstance(block.projection, GLU)]
    kv_heads, size = full.kv_heads(config.dim)
    key, value = linear.sizes(config.dim)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": blocks[dense[0]].projection.width(config.dim) if dense else 4 * config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": full.num_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "rope_parameters": write_rotary(full.rotary_base, full.rotary_fraction),
        "linear_num_key_heads": linear.num_heads,
        "linear_key_head_dim": key,
        "linear_num_value_heads": linear.value_heads,
        "linear_value_head_dim": value,
        "linear_conv_kernel_dim": linear.conv_width,
        "layer_types": ["full_attention" if isinstance(b.mixer, Attention) else "linear_attention" for b in blocks],
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": sparse.width(config.dim),
        "num_experts": sparse.num_experts,
        "num_experts_per_tok": sparse.experts_per_token,
        "shared_expert_intermediate_size": sparse.shared_hidden,
        "norm_topk_prob": sparse.normalize,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embed_tokens.weight", "model.norm.weight", centred)


def block(config, block, i):
    layer = f"model.layers.{i}"
    yield centred(f"{layer}.input_layernorm.weight", "mixer_norm/scale")
    yield from (attention if isinstance(block.mixer, Attention) else gated_deltanet)(config, block.mixer, layer)
    yield centred(f"{layer}.post_attention_layernorm.weight", "projection_norm/scale")
    if isinstance(block.projection, GLU):
        yield from glu(f"{layer}.mlp")
    else:
        yield matrix(f"{layer}.mlp.gate.weight", "projection/router_kernel")
        yield from experts(f"{layer}.mlp.experts", block.projection.num_experts)
        yield from shared_expert(f"{layer}.mlp.shared_expert")
        yield matrix(f"{layer}.mlp.shared_expert_gate.weight", "projection/shared_gate_kernel")


def attention(config, mixer, layer):
    _, size = mixer.kv_heads(config.dim)
    layer = f"{layer}.self_attn"
    yield by_head(f"{layer}.q_proj.weight", {"mixer/in_q": size, "mixer/in_gate": size}, mixer.num_heads)
    yield matrix(f"{layer}.k_proj.weight", "mixer/in_k")
    yield matrix(f"{layer}.v_proj.weight", "mixer/in_v")
    yield centred(f"{layer}.q_norm.weight", "mixer/q_norm_scale")
    yield centred(f"{layer}.k_norm.weight", "mixer/k_norm_scale")
    yield matrix(f"{layer}.o_proj.weight", "mixer/out_kernel")


def gated_deltanet(config, mixer, layer):
    (key, value), share = mixer.sizes(config.dim), mixer.value_heads // mixer.num_heads
    layer = f"{layer}.linear_attn"
    # The rows are grouped by key head: query, key, values and gates; in the second matrix, beta and decays.
    widths = {"mixer/in_q": key, "mixer/in_k": key, "mixer/in_v": share * value, "mixer/in_gate": share * value}
    yield by_head(f"{layer}.in_proj_qkvz.weight", widths, mixer.num_heads)
    yield by_head(f"{layer}.in_proj_ba.weight", {"mixer/in_beta": share, "mixer/in_decay": share}, mixer.num_heads)
    convolutions = {f"mixer/conv_{name}": width for name, width in mixer.widths(config.dim).items()}
    yield fused_conv(f"{layer}.conv1d.weight", convolutions)
    yield same(f"{layer}.A_log", "mixer/a_log")
    yield same(f"{layer}.dt_bias", "mixer/dt_bias")
    yield same(f"{layer}.norm.weight", "mixer/norm_scale")
    yield matrix(f"{layer}.out_proj.weight", "mixer/out_kernel")


FAMILY = Family(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    (Attention, GatedDeltaNet),
    read_config,
    write_config,
    model,
    block,
    # Heads for multi-token prediction; transformers does not read them either.
    ignored=(r"mtp\..*", *BUFFERS),
    ignored_fields=(
        "attention_dropout",
        "max_position_embeddings",
        "output_router_logits",
        "router_aux_loss_coef",
        # Settings of sliding windows, which no layer has.
        "max_window_layers",
        "sliding_window",
    ),
)
