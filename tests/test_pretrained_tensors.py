"""Tensors of published checkpoints by their several names, heads beside tied embeddings, dtypes, and paths."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checkpoints
from recurrax import pretrained
from recurrax.parameters import flat


def same(some, others):
    """Whether two trees of parameters are equal."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, some, others)))


def embedding_name(family):
    """Return the name of the embedding's table."""
    return next(name for name in checkpoints.tensors(checkpoints.FIXTURES / family) if "embed" in name)


@pytest.mark.parametrize(
    ("family", "published", "other"),
    [
        ("mamba", "backbone.embeddings.weight", "backbone.embedding.weight"),
        ("mamba2", "backbone.embeddings.weight", "backbone.embedding.weight"),
        ("kimi_linear", "layers.0.mlp.", "layers.0.block_sparse_moe."),
        ("olmo_hybrid", "layers.2.post_attention_layernorm.", "layers.2.feedforward_layer_norm."),
    ],
)
def test_tensors_are_read_by_other_names(family, published, other, tmp_path):
    """The authors' own files and those that transformers 5 saves name some tensors otherwise."""
    copy = checkpoints.copied(family, tmp_path)
    renamed = {name.replace(published, other): array for name, array in checkpoints.tensors(copy).items()}
    assert renamed.keys() != checkpoints.tensors(copy).keys()
    checkpoints.store(copy, renamed)
    _, params = pretrained.load(copy)
    assert same(params, pretrained.load(checkpoints.FIXTURES / family)[1])


@pytest.mark.parametrize("family", ["qwen3_next", "olmo_hybrid"])
def test_tensors_without_effect_are_ignored(family, tmp_path):
    copy = checkpoints.copied(family, tmp_path)
    names = ("mtp.fc.weight", "mtp.layers.0.mlp.gate.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    more = {name: np.zeros(3, np.float32) for name in names}
    checkpoints.store(copy, {**checkpoints.tensors(copy), **more})
    _, params = pretrained.load(copy)
    assert same(params, pretrained.load(checkpoints.FIXTURES / family)[1])


@pytest.mark.parametrize("family", ["mamba", "gated_deltanet", "transnormer"])
def test_head_beside_tied_embedding_is_never_dropped(family, tmp_path):
    """Like transformers 5: a head that is another matrix is read; a copy is the tied head; either name will do."""
    copy = checkpoints.copied(family, tmp_path)
    table, name = checkpoints.tensors(copy), embedding_name(family)
    checkpoints.store(copy, {**table, "lm_head.weight": table[name].copy()})
    model, params = pretrained.load(copy)
    assert model.config.tied_head
    assert "out_kernel" not in params["params"]

    head = np.random.default_rng(1).standard_normal(table[name].shape).astype(np.float32)
    checkpoints.store(copy, {**table, "lm_head.weight": head})
    model, other = pretrained.load(copy)
    assert not model.config.tied_head
    np.testing.assert_array_equal(other["params"].pop("out_kernel"), head.T)
    assert same(other, params)

    checkpoints.store(copy, {"lm_head.weight" if each == name else each: array for each, array in table.items()})
    model, alone = pretrained.load(copy)
    assert model.config.tied_head
    assert same(alone, params)


def test_head_of_another_shape_is_refused(tmp_path):
    copy = checkpoints.copied("mamba", tmp_path)
    checkpoints.store(copy, {**checkpoints.tensors(copy), "lm_head.weight": np.zeros((36, 24), np.float32)})
    with pytest.raises(ValueError, match=r"of another shape: lm_head.weight \(36, 24\), should be \(37, 24\)"):
        pretrained.load(copy)


@pytest.mark.parametrize("family", ["xlstm", "kimi_linear"])
def test_head_is_needed_where_published_code_never_ties(family, tmp_path):
    copy = checkpoints.copied(family, tmp_path)
    checkpoints.change(copy, tie_word_embeddings=True)
    model, params = pretrained.load(copy)
    assert not model.config.tied_head
    found = checkpoints.tensors(copy)
    np.testing.assert_array_equal(params["params"]["out_kernel"], found["lm_head.weight"].T)
    del found["lm_head.weight"]
    checkpoints.store(copy, found)
    with pytest.raises(ValueError, match="missing: lm_head.weight"):
        pretrained.load(copy)


def test_width_of_mamba_is_the_published_one(tmp_path):
    """Also where it is no multiple of the model's width, as no `expand` could say it."""
    copy = checkpoints.copied("mamba", tmp_path)
    cut = {"in_proj": lambda a: np.concatenate([a[:70], a[72:142]]), "x_proj": lambda a: a[:, :70]}
    whole = {name: cut.get(name.split(".")[-2], lambda a: a[:70]) for name in checkpoints.tensors(copy)}
    whole |= {name: (lambda a: a) for name in whole if "mixer" not in name}
    whole |= {name: (lambda a: a[:, :70]) for name in whole if "out_proj" in name}
    checkpoints.store(copy, {name: whole[name](a).copy() for name, a in checkpoints.tensors(copy).items()})
    checkpoints.change(copy, expand=16, intermediate_size=70)
    model, params = pretrained.load(copy)
    pretrained.save(tmp_path / "saved", model, params, family="mamba")
    assert checkpoints.config_of(tmp_path / "saved")["intermediate_size"] == 70
    again, same_params = pretrained.load(tmp_path / "saved")
    assert again.config == model.config
    assert same(params, same_params)


@pytest.mark.parametrize(
    ("family", "rates"),
    [
        ("mamba2", {"a_log", "dt_bias"}),
        ("rwkv7", {"decay_bias"}),
        ("gla", {"decay_bias"}),
        ("xlstm", {"forget_gate_bias"}),
        ("transnormer", {"theta"}),
    ],
)
def test_rates_keep_float32_in_narrow_checkpoints(family, rates):
    """exp(A_log) of a rounded A_log is a decay that is off by percents after some hundred steps."""
    _, params = pretrained.load(checkpoints.FIXTURES / family, param_dtype=jnp.bfloat16)
    exact, kept = flat(pretrained.load(checkpoints.FIXTURES / family)[1]), set()
    for path, leaf in flat(params).items():
        if leaf.dtype == jnp.float32:
            kept.add(path.split("/")[-1])
            np.testing.assert_array_equal(leaf, exact[path])
        else:
            np.testing.assert_array_equal(leaf, exact[path].astype(jnp.bfloat16))
    assert kept == rates


def test_dtypes_are_taken_as_words_and_as_types():
    for dtype in ("bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")):
        model, params = pretrained.load(checkpoints.FIXTURES / "gla", dtype=dtype, param_dtype=dtype)
        assert model.config.dtype == "bfloat16"
        assert params["params"]["embedding"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="param_dtype float64 needs jax_enable_x64"):
        pretrained.load(checkpoints.FIXTURES / "gla", param_dtype="float64")
    for word, argument in (
        ("float8", "dtype"),
        ("float16", "dtype"),
        ("int8", "param_dtype"),
        ("half!", "param_dtype"),
    ):
        with pytest.raises(ValueError, match=f"unknown {argument} '{word}'.*choose one of float32, bfloat16"):
            pretrained.load(checkpoints.FIXTURES / "gla", **{argument: word})


def test_tilde_and_links_name_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model, params = pretrained.load(checkpoints.FIXTURES / "gla")
    pretrained.save("~/saved", model, params, family="gla")
    assert (tmp_path / "saved" / "config.json").exists()
    (tmp_path / "link").symlink_to("saved")
    for name in ("~/saved", pathlib.Path("~/link"), "link"):
        assert same(pretrained.load(name)[1], params)
    (tmp_path / "coming").symlink_to("elsewhere")
    pretrained.save("~/coming", model, params, family="gla")
    assert (tmp_path / "coming").is_symlink()
    assert same(pretrained.load(tmp_path / "elsewhere")[1], params)
    with pytest.raises(ValueError, match="saved is not empty; nothing is written over"):
        pretrained.save("~/link", model, params, family="gla")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; a checkpoint is a directory"):
        pretrained.save("~/file", model, params, family="gla")
    assert not (tmp_path / "~").exists()


def test_index_of_wrong_type_is_refused(tmp_path):
    copy = checkpoints.copied("mamba", tmp_path)
    for text in ("[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'):
        (copy / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index.json(: weight_map is no object| holds list)"):
            pretrained.load(copy)
