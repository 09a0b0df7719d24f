"""Makes tests/fixtures/pretrained/: a tiny random model of every published family, and the logits it should give.

    pip install torch transformers safetensors
    python tests/make_pretrained_fixtures.py [FAMILY ...]

Run by hand; the tests read what it wrote. Each folder is what a hub would hold (config.json, model.safetensors) and
expected.npz: tokens (2, 21), and their logits in float32. Families that transformers has are run by transformers.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

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
    torch.manual_seed(0)
    model = randomized(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    folder = FIXTURES / family
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens), use_cache=False).logits
    np.savez_compressed(folder / "expected.npz", tokens=tokens.astype(np.int32), logits=logits.float().numpy())


def main(families):
    for family in families or CONFIGS:
        from_transformers(family)
        print(family, sum(path.stat().st_size for path in (FIXTURES / family).iterdir()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
