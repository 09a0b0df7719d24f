"""Fields of published config.json files: what authors and both versions of transformers write, and what is refused."""

import json

import pytest

import checkpoints
from published_configs import KNOWN, published
from recurrax.pretrained import FAMILIES
from recurrax.pretrained.api import described
from recurrax.pretrained.bookkeeping import IGNORED
from recurrax.pretrained.family import blocks_of
from recurrax.pretrained.fields import Fields

ROTARY = ("qwen3_next", "minimax", "olmo_hybrid", "recurrent_gemma")
SCALED = ("linear", "dynamic", "yarn", "longrope", "llama3")


def written(folder, config):
    """Return the folder, with this config.json in it."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def fixture(folder, family, *without, **fields):
    """Return the folder, with the config.json of a fixture in it, changed; no tensors."""
    written(folder, checkpoints.config_of(checkpoints.FIXTURES / family))
    checkpoints.change(folder, *without, **fields)
    return folder


def attention_of(folder):
    """Return the rotary settings of the model in a folder."""
    _, config = described(folder)
    (mixer,) = {block.mixer for block in blocks_of(config) if hasattr(block.mixer, "rotary_base")}
    return mixer.rotary_base, mixer.rotary_fraction


@pytest.mark.parametrize("name", FAMILIES)
def test_published_config_is_read_and_written_back(name, tmp_path):
    """The sizes are those that the models are known by; no field is left over, which would be a warning."""
    family, config = described(written(tmp_path, published(name)))
    sizes, mixers = KNOWN[name]
    blocks = blocks_of(config)
    last = blocks[-1].projection
    hidden = None if last is None else last.width(config.dim)
    assert (config.dim, len(blocks), config.tied_head, hidden) == sizes
    assert config.vocab_size == published(name)["vocab_size"]
    assert {type(block.mixer).__name__ for block in blocks} == set(mixers)
    for block in blocks:
        want = mixers[type(block.mixer).__name__]
        assert {field: getattr(block.mixer, field) for field in want} == want
    assert family.read_config(Fields(family.write_config(config))) == config


def test_kimi_linear_layers_are_those_published(tmp_path):
    _, config = described(written(tmp_path, published("kimi_linear")))
    full = [i + 1 for i, block in enumerate(blocks_of(config)) if type(block.mixer).__name__ == "LatentAttention"]
    dense = [i + 1 for i, block in enumerate(blocks_of(config)) if type(block.projection).__name__ == "GLU"]
    assert (full, dense) == ([4, 8, 12, 16, 20, 24, 27], [1])


def of_other_types(value):
    """Return values that JSON types other than this value's have, and numbers in other clothes."""
    if isinstance(value, bool):
        return "true", 1, [], {}, {"__float__": "NaN"}
    if isinstance(value, int | float):
        return "1e-05", "2", [0.0, None], {}, True, {"__float__": "Infinity"}, {"__float__": "large"}, 10**400
    return 3, True, [None], {"a": [1]}, {"__float__": "NaN"}


@pytest.mark.parametrize("family", FAMILIES)
def test_field_of_wrong_type_is_refused_by_name(family, tmp_path):
    """A field without effect may be anything; every other one is a ValueError with its name, never another error."""
    _, want = described(fixture(tmp_path, family))
    for field, value in checkpoints.config_of(tmp_path).items():
        for wrong in of_other_types(value):
            fixture(tmp_path, family, **{field: wrong})
            ignored = field in {*IGNORED, *FAMILIES[family].ignored_fields} - {"model_type", "fuse_norm"}
            if ignored:
                assert described(tmp_path)[1] == want, (field, wrong)
            else:
                with pytest.raises(ValueError, match=field):
                    described(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_null_field_is_the_default_or_refused(family, tmp_path):
    fields = checkpoints.config_of(fixture(tmp_path, family))
    ranks = {name for name in fields if name.endswith("low_rank_dim")}  # see below
    for field in fields.keys() - {"model_type", "hidden_size", "num_attention_heads"} - ranks:
        fixture(tmp_path, family, **{field: None})
        try:
            stated = described(tmp_path)
        except ValueError as error:
            assert field in str(error)  # noqa: PT017
        else:
            assert stated == described(fixture(tmp_path, family, field)), field


def test_infinite_bound_is_read_however_written(tmp_path):
    """transformers 4 writes Infinity as no JSON, transformers 5 as an object, converters as a string."""
    for infinity in (float("inf"), {"__float__": "Infinity"}, "Infinity", "inf"):
        _, config = described(fixture(tmp_path, "mamba2", time_step_limit=[0.0, infinity]))
        assert config.pattern[0].dt_limit == (0.0, float("inf"))


@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotary_positions_are_refused(family, kind, tmp_path):
    scaling = {"factor": 4.0, "original_max_position_embeddings": 16}
    for fields, message in (
        (
            {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **scaling}},
            f"rope_parameters: rope_type '{kind}'",
        ),
        ({"rope_parameters": None, "rope_scaling": {"type": kind, **scaling}}, f"rope_scaling: type '{kind}'"),
        ({"rope_scaling": {"rope_type": kind, **scaling}}, f"rope_scaling: rope_type '{kind}'"),
        ({"rope_parameters": {"full_attention": {"rope_type": kind}}}, "rope_parameters: full_attention"),
    ):
        with pytest.raises(ValueError, match=message):
            described(fixture(tmp_path, family, **fields))


@pytest.mark.parametrize("family", ROTARY)
def test_unscaled_rotary_positions_are_read_in_both_forms(family, tmp_path):
    """The defaults are those that transformers 5.24 fills in."""
    theta, fraction = 1e6 if family == "minimax" else 1e4, {"qwen3_next": 0.25, "recurrent_gemma": 0.5}.get(family, 1.0)
    partial = {} if fraction == 1.0 else {"partial_rotary_factor": 0.5}
    stated = (5000.0, partial.get("partial_rotary_factor", 1.0))
    for fields, want in (
        ({}, (theta, fraction)),
        ({"rope_parameters": None}, (theta, fraction)),
        ({"rope_theta": 5000, **partial}, stated),
        ({"rope_theta": 5000, **partial, "rope_scaling": None}, stated),
        ({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, **partial}}, stated),
        ({"rope_parameters": {"rope_theta": 7.0}, "rope_scaling": {"type": "default"}, "rope_theta": 5000.0}, None),
    ):
        got = attention_of(fixture(tmp_path, family, "rope_parameters", **fields))
        assert got == (want or (5000.0, fraction)), fields


def test_null_theta_means_no_positions_in_olmo_hybrid(tmp_path):
    """An absent theta is the default; only null takes the positions away, as transformers 5 reads it."""
    for fields in ({"rope_theta": None}, {"rope_parameters": {"rope_type": "default", "rope_theta": None}}):
        assert attention_of(fixture(tmp_path, "olmo_hybrid", "rope_parameters", **fields))[1] == 0.0
    family, config = described(tmp_path)
    assert family.write_config(config)["rope_parameters"] == {"rope_type": "default", "rope_theta": None}
    with pytest.raises(ValueError, match="rope_theta is null"):
        described(fixture(tmp_path, "qwen3_next", "rope_parameters", rope_theta=None))


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_and_nested_configs_are_refused_by_name(family, tmp_path):
    for field, value, message in (
        ("quantization_config", {"quant_method": "awq", "bits": 4}, r"quantization_config \(awq\)"),
        ("quantization_config", {"quant_method": "fp8", "fmt": "e4m3"}, r"quantization_config \(fp8\)"),
        ("quantization", {"group_size": 64, "bits": 4}, "quantization .* are quantised"),
        ("text_config", {"model_type": family}, "text_config belongs to a model of several modalities"),
        ("vision_config", {"depth": 27}, "vision_config belongs to a model of several modalities"),
    ):
        with pytest.raises(ValueError, match=message):
            described(fixture(tmp_path, family, **{field: value}))
    described(fixture(tmp_path, family, quantization_config=None))
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ValueError, match="hf_quant_config.json says that the tensors are quantised"):
        described(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_field_is_named_in_a_warning(family, tmp_path):
    _, want = described(fixture(tmp_path, family))
    fixture(tmp_path, family, brand_new=1, another={"a": 1})
    with pytest.warns(UserWarning, match="config.json has unknown fields, which are ignored: another, brand_new$"):
        assert described(tmp_path)[1] == want


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("mamba", "rms_norm", False),
        ("mamba", "is_encoder_decoder", True),
        ("mamba2", "expand", 3),
        ("xlstm", "num_blocks", 4),
        ("recurrent_gemma", "embeddings_scale_by_sqrt_dim", False),
        ("recurrent_gemma", "block_types", ["recurrent", "mamba"]),
        ("minimax", "shared_intermediate_size", 5),
        ("minimax", "partial_rotary_factor", 0.5),
        ("minimax", "layer_types", ["full_attention"]),
        ("qwen3_next", "use_sliding_window", True),
        ("kimi_linear", "mla_use_nope", False),
        ("kimi_linear", "num_key_value_heads", 1),
        ("kimi_linear", "linear_attn_config", {"gate_lower_bound": -5.0}),
        ("gla", "use_gv", True),
        ("delta_net", "norm_first", True),
        ("rwkv7", "value_dim", 48),
        ("transnormer", "glu_act", "silu"),
    ],
)
def test_field_that_changes_the_numbers_is_refused(family, field, value, tmp_path):
    if field == "partial_rotary_factor":
        fixture(tmp_path, family, "rope_parameters", **{field: value})
    else:
        fixture(tmp_path, family, **{field: value})
    with pytest.raises(ValueError, match=field):
        described(tmp_path)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"xlstm", "kimi_linear"}))
def test_tied_and_untied_heads_are_written_back(family, tmp_path):
    for tied in (True, False):
        read, config = described(fixture(tmp_path, family, tie_word_embeddings=tied))
        assert config.tied_head is tied
        assert read.write_config(config)["tie_word_embeddings"] is tied
        heads = [name for rule in read.model(config) for name in rule.theirs if name == "lm_head.weight"]
        assert len(heads) == (not tied)


def test_absent_rank_of_rwkv7_is_not_null(tmp_path):
    """The published config fills in its own defaults; only null leaves them to the layer, which computes them."""
    ranks = [f"{name}_low_rank_dim" for name in ("decay", "a", "v", "gate")]
    found = []
    for without, nulls in ((ranks, {}), ((), dict.fromkeys(ranks))):
        _, config = described(fixture(tmp_path, "rwkv7", *without, **nulls))
        mixer = blocks_of(config)[-1].mixer
        found.append((mixer.decay_rank, mixer.rate_rank, mixer.value_rank, mixer.gate_rank))
    assert found == [(64, 64, 16, 128), (32, 32, 32, 32)]


def test_second_names_of_fields_are_read(tmp_path):
    """Names of transformers' attribute maps are read; the first of a pair holds where a file has both."""
    for family, first, second in (
        ("kimi_linear", "num_experts", "num_local_experts"),
        ("kimi_linear", "num_experts_per_token", "num_experts_per_tok"),
        ("kimi_linear", "num_shared_experts", "n_shared_experts"),
        ("kimi_linear", "num_expert_group", "n_group"),
        ("kimi_linear", "moe_renormalize", "norm_topk_prob"),
        ("minimax", "num_experts", "num_local_experts"),
        ("recurrent_gemma", "sliding_window", "attention_window_size"),
        ("xlstm", "hidden_size", "embedding_dim"),
        ("xlstm", "num_hidden_layers", "num_blocks"),
    ):
        stated = checkpoints.config_of(fixture(tmp_path, family))
        value = stated[first] if first in stated else stated[second]
        _, want = described(tmp_path)
        for name in (first, second):
            assert described(fixture(tmp_path, family, first, second, **{name: value}))[1] == want, name


@pytest.mark.parametrize("text", ["[]", "3", '"mamba"', "null", "", "{", b"\xff\xfe"])
def test_config_that_is_no_object_is_refused(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="config.json (is no JSON|holds .* where a JSON object should be)"):
        described(tmp_path)
