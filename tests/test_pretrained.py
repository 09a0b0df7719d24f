"""Published checkpoints: every family's logits, files back and forth, and what is refused.

The fixtures are tiny random models in the files of a hub, with the logits that others compute from them
(make_pretrained_fixtures.py).
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from checkpoints import FIXTURES, tensors
from recurrax import pretrained
from recurrax.mixers import LRU
from recurrax.models import BlockConfig, LanguageModel, LanguageModelConfig
from recurrax.pretrained import FAMILIES, directory
from recurrax.pretrained.family import arranged
from recurrax.pretrained.rules import same

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SPLIT = 8
PARTS = ("first", "pattern", "last")


@pytest.fixture
def mamba(tmp_path):
    """A copy to be spoilt."""
    return pathlib.Path(shutil.copytree(FIXTURES / "mamba", tmp_path / "mamba"))


def spoil(folder, **fields):
    """Changes fields of config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_every_family_has_a_fixture():
    assert {path.name for path in FIXTURES.iterdir()} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_published_model(family):
    model, params = pretrained.load(FIXTURES / family, max_length=32)
    expected = np.load(FIXTURES / family / "expected.npz")

    @jax.jit
    def run(params, tokens):
        """The whole sequence; its beginning token by token; the rest as a chunk from the state after that."""
        whole, _ = model.apply(params, tokens)

        def step(state, token):
            logits, state = model.apply(params, token[:, None], state)
            return state, logits[:, 0]

        state, steps = jax.lax.scan(step, model.init_state(tokens.shape[0]), tokens[:, :SPLIT].T)
        chunk, _ = model.apply(params, tokens[:, SPLIT:], state)
        return whole, jnp.concatenate([steps.swapaxes(0, 1), chunk], axis=1)

    whole, pieces = run(params, expected["tokens"])
    assert np.abs(expected["logits"]).max() > 1
    np.testing.assert_allclose(whole, expected["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(pieces, expected["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_what_was_published(family, tmp_path):
    model, params = pretrained.load(FIXTURES / family)
    pretrained.save(tmp_path / "saved", model, params, family=family)
    want, got = tensors(FIXTURES / family), tensors(tmp_path / "saved")
    ignored = want.keys() - got.keys()
    assert got.keys() <= want.keys()
    assert not ignored or FAMILIES[family].ignored
    for name, array in got.items():
        # Scales that are published less 1 are rounded once each way.
        np.testing.assert_allclose(array, want[name], rtol=0, atol=2.5e-7, err_msg=name)
    again, _ = pretrained.load(tmp_path / "saved")
    assert again.config == model.config


def test_files_in_parts_with_an_index(tmp_path):
    model, params = pretrained.load(FIXTURES / "mamba")
    pretrained.save(tmp_path / "saved", model, params, family="mamba", fields={"eos_token_id": 7}, shard_bytes=20_000)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (7, None)
    assert len(list((tmp_path / "saved").glob("model-0000?-of-0000?.safetensors"))) > 3
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    _, again = pretrained.load(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_parameters_are_cast_and_laid_out_on_load(mamba):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors(mamba).items()}
    safetensors.numpy.save_file(half, mamba / "model.safetensors")
    mesh = jax.make_mesh((8,), ("fsdp",))

    def sharding(path, leaf):
        split = path.endswith("out_kernel") and leaf.shape == (3, 72, 24)
        return NamedSharding(mesh, PartitionSpec(None, "fsdp") if split else PartitionSpec())

    model, params = pretrained.load(mamba, dtype="bfloat16", param_dtype=jnp.bfloat16, sharding=sharding)
    assert model.config.dtype == "bfloat16"
    rates = {"a_log", "dt_bias"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.dtype == (jnp.float32 if path[-1].key in rates else jnp.bfloat16), jax.tree_util.keystr(path)
    kernel = params["params"]["backbone"]["groups"]["0_mamba"]["mixer"]["out_kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 9, 24)
    want = half["backbone.layers.1.mixer.out_proj.weight"].T
    np.testing.assert_array_equal(np.asarray(kernel[1]), want)


def test_all_tensor_differences_are_listed_first(mamba, monkeypatch):
    """All differences of the tensors are listed before any tensor is read."""
    changed = tensors(mamba)
    del changed["backbone.layers.1.mixer.D"]
    changed["backbone.layers.9.mixer.D"] = np.zeros(4, np.float32)
    changed["backbone.norm_f.weight"] = np.zeros(25, np.float32)
    changed["backbone.embeddings.weight"] = changed["backbone.embeddings.weight"].T.copy()
    safetensors.numpy.save_file(changed, mamba / "model.safetensors")
    monkeypatch.setattr(directory.Tensors, "__getitem__", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(ValueError, match="not those of its config.json") as error:
        pretrained.load(mamba)
    assert str(error.value).splitlines()[1:] == [
        "  missing: backbone.layers.1.mixer.D (72,)",
        "  of another shape: backbone.embeddings.weight (24, 37), should be (37, 24)",
        "  unknown: backbone.layers.9.mixer.D (4,)",
        "  of another shape: backbone.norm_f.weight (25,), should be (24,)",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mambo"}, r"unknown model_type 'mambo' \(did you mean 'mamba'\?\); choose one of .*mamba2"),
        ({"model_type": None}, "unknown model_type None"),
        ({"hidden_act": "gelu"}, r"config.json: hidden_act 'gelu' is not supported; it would have to be 'silu'"),
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"state_size": 0}, "config.json: state_size is 0; it would have to be a whole number of at least 1"),
    ],
)
def test_load_refuses_unknown_configs(mamba, fields, message):
    """Published configs for which there is no model are refused."""
    spoil(mamba, **fields)
    with pytest.raises(ValueError, match=message):
        pretrained.load(mamba)


def test_damaged_directories_are_refused(mamba, tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        pretrained.load(tmp_path / "nothing")
    whole = (mamba / "model.safetensors").read_bytes()
    (mamba / "model.safetensors").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged, or no safetensors file"):
        pretrained.load(mamba)
    (mamba / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has neither model.safetensors nor model.safetensors.index.json"):
        pretrained.load(mamba)
    (mamba / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    with pytest.raises(ValueError, match=r"names files that are not there: x.safetensors"):
        pretrained.load(mamba)
    (mamba / "x.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"differ in their tensors: a, backbone"):
        pretrained.load(mamba)
    (mamba / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON"):
        pretrained.load(mamba)


def test_numbers_of_other_kinds_are_refused(mamba):
    changed = tensors(mamba)
    changed["backbone.norm_f.weight"] = np.zeros(24, np.int8)
    safetensors.numpy.save_file(changed, mamba / "model.safetensors")
    with pytest.raises(ValueError, match=r"backbone.norm_f.weight is I8; numbers are read from F64, F32, F16, BF16"):
        pretrained.load(mamba)


def test_save_overwrites_nothing_and_leaves_no_fragments(tmp_path, monkeypatch):
    """Saving writes over nothing, and leaves nothing half-written."""
    model, params = pretrained.load(FIXTURES / "mamba")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(ValueError, match="full is not empty; nothing is written over"):
        pretrained.save(tmp_path / "full", model, params, family="mamba")

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        pretrained.save(tmp_path / "new", model, params, family="mamba")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_save_refuses_models_outside_the_family(tmp_path):
    """Models that a family cannot hold are not saved."""
    model, params = pretrained.load(FIXTURES / "mamba")
    other = LanguageModel(LanguageModelConfig(pattern=(LRU(),)))
    with pytest.raises(ValueError, match="mamba is a family of models with Mamba; this one has LRU"):
        pretrained.save(tmp_path / "new", other, params, family="mamba")
    capped = LanguageModel(dataclasses.replace(model.config, logit_soft_cap=30.0))
    with pytest.raises(ValueError, match="mamba cannot hold this model; read back it would be"):
        pretrained.save(tmp_path / "new", capped, params, family="mamba")
    with pytest.raises(ValueError, match="no state of this model|this model"):
        pretrained.save(tmp_path / "new", model, {"params": {}}, family="mamba")
    with pytest.raises(ValueError, match="fields expand, vocab_size follow from the model"):
        pretrained.save(tmp_path / "new", model, params, family="mamba", fields={"vocab_size": 9, "expand": 2})
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(ValueError, match="quantization_config .* says that the tensors are quantised"):
        pretrained.save(tmp_path / "new", model, params, family="mamba", fields=quantised)
    with pytest.raises(ValueError, match=r"unknown family 'mambas' \(did you mean 'mamba'\?\)"):
        pretrained.save(tmp_path / "new", model, params, family="mambas")
    assert not list(tmp_path.iterdir())


def test_conversion_table_must_cover_all_parameters(monkeypatch):
    """A conversion table that leaves a parameter out is an error."""
    monkeypatch.setitem(
        FAMILIES, "mamba", dataclasses.replace(FAMILIES["mamba"], model=lambda _: [same("x", "embedding")])
    )
    with pytest.raises(AssertionError, match="backbone/norm/scale"):
        pretrained.load(FIXTURES / "mamba")


@pytest.mark.parametrize(
    ("blocks", "want"),
    [
        ("aaaa", ("", "a", "")),
        ("aab" * 3, ("", "aab", "")),
        ("aab" * 3 + "a", ("", "aab", "")),
        ("x" + "aaab" * 5, ("x", "aaab", "")),
        # Kimi Linear's 27 layers, the first of them dense.
        ("x" + "aab" + "aaab" * 5 + "aab", ("x", "aaba", "ab")),
        ("a", ("", "a", "")),
        ("abc", ("", "abc", "")),
    ],
)
def test_layer_arrangement_maximizes_the_scan(blocks, want):
    """Layers are arranged with the fewest outside of the scan."""
    kinds = {letter: BlockConfig(LRU(state_dim=i + 1)) for i, letter in enumerate("abcx")}
    found = arranged([kinds[letter] for letter in blocks])
    got = ({block: letter for letter, block in kinds.items()}[block] for name in PARTS for block in found[name])
    assert "".join(got) == "".join(want)
    assert [len(found[name]) for name in PARTS] == [len(part) for part in want]
    assert found["num_layers"] == len(blocks)
