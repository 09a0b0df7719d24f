"""Makes tests/fixtures/pretrained/: a tiny random model of every published family, and the logits it should give.

    pip install torch transformers safetensors
    python tests/make_pretrained_fixtures.py [FAMILY ...]
    python tests/make_pretrained_fixtures.py --check DIR

Run by hand; the tests read what it wrote. Each folder is what a hub would hold (config.json, model.safetensors) and
expected.npz: tokens (2, 21), and their logits in float32. Families that transformers has are run by transformers, the
others by oracles/published. --check lets transformers read a directory that `eval export` wrote and compares its logits
with those in expected.npz there: np.savez(DIR / "expected.npz", tokens=tokens, logits=model.apply(params, tokens)[0]).
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles import published

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "pretrained"
LENGTH = 21
VOCAB = 37

# Sizes are odd and unequal where the family allows it, so that a wrong axis shows as a wrong shape. Every kind of layer
# that a family has occurs.
CONFIGS = {
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=24, expand=3, state_size=5, time_step_rank=4, conv_kernel=3, num_hidden_layers=3
    ),
    "falcon_mamba": lambda: transformers.FalconMambaConfig(
        vocab_size=VOCAB, hidden_size=20, expand=2, state_size=6, num_hidden_layers=3, mixer_rms_eps=1e-4
    ),
    "mamba2": lambda: transformers.Mamba2Config(
        vocab_size=VOCAB,
        hidden_size=24,
        expand=2,
        num_heads=6,
        head_dim=8,
        state_size=5,
        n_groups=3,
        num_hidden_layers=3,
        chunk_size=8,
        time_step_limit=(0.01, 1.5),
    ),
    "minimax": lambda: transformers.MiniMaxConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=10,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=5,
        num_experts_per_tok=2,
        block_size=8,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        full_attn_alpha_factor=1.5,
        full_attn_beta_factor=0.75,
        linear_attn_alpha_factor=1.25,
        linear_attn_beta_factor=0.5,
        mlp_alpha_factor=1.75,
        mlp_beta_factor=0.875,
    ),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_conv_kernel_dim=3,
        linear_key_head_dim=5,
        linear_value_head_dim=6,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        moe_intermediate_size=7,
        shared_expert_intermediate_size=9,
        num_experts_per_tok=2,
        num_experts=5,
        mlp_only_layers=[4],
        tie_word_embeddings=False,
    ),
    "olmo_hybrid": lambda: transformers.OlmoHybridConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=22,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
        # Queries, keys and values as wide as each other: transformers 5.23 cuts their convolutions into equal parts.
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=14,
        linear_value_head_dim=7,
        linear_conv_kernel_dim=3,
        linear_allow_neg_eigval=True,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "kimi_linear": lambda: transformers.KimiLinearConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=22,
        moe_intermediate_size=7,
        num_hidden_layers=6,
        num_attention_heads=3,
        num_key_value_heads=3,
        n_shared_experts=2,
        kv_lora_rank=10,
        q_lora_rank=None,
        qk_rope_head_dim=4,
        qk_nope_head_dim=5,
        v_head_dim=6,
        num_experts_per_tok=2,
        num_local_experts=6,
        n_group=2,
        topk_group=1,
        linear_head_dim=5,
        linear_num_heads=3,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=1,
        linear_conv_kernel_dim=3,
        layer_types=["linear_attention"] * 2 + ["full_attention"] + ["linear_attention"] * 2 + ["full_attention"],
    ),
    "recurrent_gemma": lambda: transformers.RecurrentGemmaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=44,
        num_hidden_layers=5,
        num_attention_heads=3,
        num_key_value_heads=1,
        lru_width=30,
        attention_window_size=7,
        logits_soft_cap=5.0,
    ),
    "xlstm": lambda: transformers.xLSTMConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=3,
        num_heads=3,
        qk_dim_factor=0.5,
        ffn_proj_factor=1.5,
        ffn_round_up_to_multiple_of=5,
        output_logit_soft_cap=5.0,
        chunk_size=8,
        autocast_kernel_dtype="float32",
        weight_mode="single",
    ),
}

# Those that transformers does not have: config.json itself.
FLA = {"vocab_size": VOCAB, "hidden_size": 24, "norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
PUBLISHED = {
    "gla": {
        **FLA,
        "num_hidden_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "expand_k": 0.5,
        "expand_v": 1.5,
        "intermediate_size": 20,
    },
    "delta_net": {
        **FLA,
        "num_hidden_layers": 3,
        "num_heads": 2,
        "expand_k": 1.5,
        "expand_v": 0.5,
        "conv_size": 3,
        "use_gate": True,
        "intermediate_size": 22,
    },
    "gated_deltanet": {
        **FLA,
        "num_hidden_layers": 3,
        "num_heads": 2,
        "num_v_heads": 4,
        "head_dim": 14,
        "expand_v": 0.5,
        "conv_size": 3,
        "allow_neg_eigval": True,
        "intermediate_size": 18,
        "tie_word_embeddings": True,
    },
    "rwkv7": {
        **FLA,
        "num_hidden_layers": 4,
        "head_dim": 8,
        "decay_low_rank_dim": 3,
        "gate_low_rank_dim": 5,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 2,
        "intermediate_size": 20,
    },
    "transnormer": {
        "vocab_size": VOCAB,
        "decoder_embed_dim": 24,
        "decoder_layers": 4,
        "decoder_attention_heads": 3,
        "hidden_dim": 24,
        "glu_dim": 20,
        "linear_act_fun": "swish",
        "linear_use_lrpe_list": [1, 0, 0, 0],
        "norm_type": "simplermsnorm",
    },
}


# The name that transformers saves -> the published one.
PUBLISHED_NAMES = {
    # The norms of full attention get those of the linear layers.
    "olmo_hybrid": lambda config: {
        f"model.layers.{i}.feedforward_layer_norm.weight": f"model.layers.{i}.post_attention_layernorm.weight"
        for i, kind in enumerate(config.layer_types)
        if kind == "full_attention"
    },
    # The dense layers get those of the experts.
    "kimi_linear": lambda config: {
        f"model.layers.{i}.block_sparse_moe.{name}.weight": f"model.layers.{i}.mlp.{name}.weight"
        for i, kind in enumerate(config.mlp_layer_types)
        if kind == "dense"
        for name in ("gate_proj", "up_proj", "down_proj")
    },
}


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its default, so that one that is not read changes the logits."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.data += 0.2 * noise
        else:
            parameter.data = noise * parameter[0].numel() ** -0.5
    return model


def from_transformers(family: str) -> None:
    """A model of transformers' own."""
    config = CONFIGS[family]()
    config._experts_implementation = "eager"  # the grouped product wants sizes in multiples of four
    torch.manual_seed(0)
    model = randomized(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    folder = FIXTURES / family
    model.save_pretrained(folder, max_shard_size="60KB" if family == "qwen3_next" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if family in PUBLISHED_NAMES:
        as_published(folder / "model.safetensors", PUBLISHED_NAMES[family](config))
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens), use_cache=False).logits
    np.savez_compressed(folder / "expected.npz", tokens=tokens.astype(np.int32), logits=logits.float().numpy())


def as_published(path: pathlib.Path, names: dict[str, str]) -> None:
    """Give tensors the names that they have in the published files; transformers 5.23 saves some by others."""
    save_file({names.get(name, name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def from_oracle(family: str) -> None:
    """Random tensors of the published names and shapes, and the logits that the family's equations make of them."""
    config, (shapes, forward) = {"model_type": family, **PUBLISHED[family]}, published.FAMILIES[family]
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in shapes(config).items():
        noise = rng.standard_normal(shape).astype(np.float32)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        elif "embed" in name:
            noise = noise * 24**-0.5 if family == "transnormer" else noise
        elif len(shape) > 1 and name.endswith("weight"):
            noise = noise / np.sqrt(np.prod(shape[1:]))
        tensors[name] = torch.from_numpy(np.asarray(noise, np.float32))
    folder = FIXTURES / family
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH))
    logits = forward(config, {name: tensor.numpy() for name, tensor in tensors.items()}, tokens)
    np.savez_compressed(folder / "expected.npz", tokens=tokens.astype(np.int32), logits=logits.astype(np.float32))


def check(folder: pathlib.Path) -> None:
    """Print how far transformers' logits of a checkpoint are from those in its expected.npz."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = np.load(folder / "expected.npz")
    with torch.no_grad():
        logits = model(torch.from_numpy(expected["tokens"]).long(), use_cache=False).logits.float().numpy()
    apart = np.abs(logits - expected["logits"]).max()
    print(f"{type(model).__name__}: logits up to {np.abs(logits).max():.3f}, at most {apart:.1e} apart")


def main(families):
    if families[:1] == ["--check"]:
        check(pathlib.Path(families[1]))
        return
    for family in families or (*CONFIGS, *PUBLISHED):
        (from_transformers if family in CONFIGS else from_oracle)(family)
        print(family, sum(path.stat().st_size for path in (FIXTURES / family).iterdir()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
