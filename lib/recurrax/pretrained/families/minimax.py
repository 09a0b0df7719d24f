"""Maps MiniMax-01 checkpoints (MiniMaxAI/MiniMax-Text-01-hf, arXiv 2501.08313): lightning attention and experts.

Some layers have softmax attention. The residual stream takes normed inputs with factors: see `BlockConfig.order`.
`rotary_dim` in the authors' config.json is the number of channels of each head that are rotated. transformers 5 does
not read it and rotates whole heads, as this family does if the field is missing.
"""

from recurrax.mixers import Attention, Lightning
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.family import Family, arranged, blocks_of
from recurrax.pretrained.rotary import BUFFERS, read_rotary, write_rotary
from recurrax.pretrained.rules import by_head, ends, experts, matrix, same
from recurrax.projections import MixtureOfExperts


def read_config(fields):
    fields.require("hidden_act", "silu")
    fields.require("sliding_window", None)
    # Fields of the authors' own config: the residual takes the normed input, and there is no shared expert.
    fields.require("postnorm", True)
    fields.require("shared_intermediate_size", 0)
    dim, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    size = fields.integer("head_dim", None) or dim // heads
    theta, _ = read_rotary(fields, theta=1e6)
    projection = MixtureOfExperts(
        hidden=fields.integer("intermediate_size"),
        activation="silu",
        num_experts=fields.integer(fields.first("num_experts", "num_local_experts"), 8),
        experts_per_token=fields.integer("num_experts_per_tok", 2),
    )
    attention = Attention(
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", 8),
        head_dim=size,
        rotary_base=theta,
        rotary_fraction=fields.integer("rotary_dim", size) / size,
    )
    mixers = {
        "full_attention": attention,
        "linear_attention": Lightning(num_heads=heads, head_dim=size, slopes="minimax"),
    }

    def weights(name):
        return tuple(fields.number(f"{name}_{greek}_factor", 1.0) for greek in ("alpha", "beta"))

    blocks = {
        kind: BlockConfig(
            mixer,
            projection,
            "normed_residual",
            mixer_weights=weights("full_attn" if kind == "full_attention" else "linear_attn"),
            projection_weights=weights("mlp"),
        )
        for kind, mixer in mixers.items()
    }
    length = fields.integer("num_hidden_layers")
    alternating = [("full_attention", "linear_attention")[i % 2] for i in range(length)]
    kinds = fields.kinds("layer_types", mixers, None, length=length) or alternating
    return LanguageModelConfig(
        vocab_size=fields.integer("vocab_size"),
        dim=dim,
        **arranged([blocks[kind] for kind in kinds]),
        projection=projection,
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        tied_head=fields.flag("tie_word_embeddings", False),
        embedding_scale=1.0,
    )


def write_config(config):
    blocks = blocks_of(config)
    full, linear = (next(b for b in blocks if isinstance(b.mixer, kind)) for kind in (Attention, Lightning))
    kv_heads, size = full.mixer.kv_heads(config.dim)
    factors = {"full_attn": full.mixer_weights, "linear_attn": linear.mixer_weights, "mlp": full.projection_weights}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": full.projection.width(config.dim),
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": full.mixer.num_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "num_local_experts": full.projection.num_experts,
        "num_experts_per_tok": full.projection.experts_per_token,
        "layer_types": ["linear_attention" if isinstance(b.mixer, Lightning) else "full_attention" for b in blocks],
        "rope_parameters": write_rotary(full.mixer.rotary_base),
        "rotary_dim": full.mixer.turned(size),
        **{f"{name}_alpha_factor": alpha for name, (alpha, _) in factors.items()},
        **{f"{name}_beta_factor": beta for name, (_, beta) in factors.items()},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
    }


def model(config):
    return ends(config.tied_head, "model.embed_tokens.weight", "model.norm.weight")


def block(config, block, i):
    layer, mixer = f"model.layers.{i}", f"model.layers.{i}.self_attn"
    yield same(f"{layer}.input_layernorm.weight", "mixer_norm/scale")
    if isinstance(block.mixer, Lightning):
        heads, size = block.mixer.num_heads, block.mixer.size(config.dim)
        yield by_head(f"{mixer}.qkv_proj.weight", {f"mixer/in_{name}": size for name in "qkv"}, heads)
        yield same(f"{mixer}.norm.weight", "mixer/norm_scale")
        yield matrix(f"{mixer}.output_gate.weight", "mixer/in_gate")
        yield matrix(f"{mixer}.out_proj.weight", "mixer/out_kernel")
    else:
        for name in "qkv":
            yield matrix(f"{mixer}.{name}_proj.weight", f"mixer/in_{name}")
        yield matrix(f"{mixer}.o_proj.weight", "mixer/out_kernel")
    yield same(f"{layer}.post_attention_layernorm.weight", "projection_norm/scale")
    yield matrix(f"{layer}.block_sparse_moe.gate.weight", "projection/router_kernel")
    yield from experts(f"{layer}.block_sparse_moe.experts", block.projection.num_experts, ("w1", "w3", "w2"))


FAMILY = Family(
    "minimax",
    "MiniMaxForCausalLM",
    (Attention, Lightning),
    read_config,
    write_config,
    model,
    block,
    # Decay factors, and tables of their powers.
    ignored=(
        *BUFFERS,
        r"model\.layers\.\d+\.self_attn\.(slope_rate|query_decay|key_decay|diagonal_decay)",
    ),
    ignored_fields=(
        "attention_dropout",
        "block_size",
        "max_position_embeddings",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        # The way in which a shared expert would be added; there is none.
        "shared_moe_mode",
    ),
)
