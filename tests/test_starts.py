"""Runs that start from another run's parameters, and runs that train a part of them."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from recurrax import patterns
from runs import arrays, checkpoints, flags, metrics, saved_state, small
from train import sharding
from train.__main__ import main
from train.loop import train
from train.optimizers import ScheduleFreeAdamW
from train.plan import make_plan
from train.sharding import MeshConfig
from train.starts import Random, Run
from train.state import abstract_state, declarations, init_state, trained_declarations

pytestmark = pytest.mark.usefixtures("compiled_once")


def first_state(config):
    return init_state(config, abstract_state(config, sharding.make_mesh(config.mesh)))


def params_of(path, step=None):
    """Return dtype, shape and bytes of a run's parameters by their paths."""
    saved = saved_state(path, step)
    return {name.removeprefix("params/"): value for name, value in saved.items() if name.startswith("params/")}


def bytes_of(params):
    return {name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in arrays(params).items()}


@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)], ids=["one", "mesh"])
def test_start_has_the_parameters_of_the_run(text, small_run, mesh):
    """All parameters are those of the checkpoint, split over the mesh; steps and moments begin anew."""
    config = dataclasses.replace(small(text), start=Run(str(small_run)), mesh=mesh)
    state = first_state(config)
    assert bytes_of(state.params) == params_of(small_run)
    assert int(state.step) == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))
    earlier = dataclasses.replace(config, start=Run(str(small_run), step=8))
    assert bytes_of(first_state(earlier).params) == params_of(small_run, 8) != params_of(small_run)


def test_averages_start_from_the_loaded_parameters(text, small_run):
    config = dataclasses.replace(small(text), start=Run(str(small_run)), optimizer=ScheduleFreeAdamW())
    state = first_state(config)
    assert bytes_of(state.opt_state[1].z) == bytes_of(state.params) == params_of(small_run)


def test_frozen_parameters_keep_their_bits(tmp_path, text, small_run, capfd):
    """Only what matches is trained and has moments; the second call needs the other run no more, and is to the bit."""
    source = shutil.copytree(small_run, tmp_path / "source")
    words = ["tiny", *flags(text, steps=4, optimizer__groups="recurrence=0.5"), "--train", "*/mixer/*", "embedding"]
    words += ["--start", f"Run({str(source)!r})"]
    assert main([*words, "--workdir", str(tmp_path / "whole")]) == 0
    out = capfd.readouterr().out
    assert f"Starting from the newest checkpoint of {source}" in out
    assert "parameters are trained: */mixer/*, embedding" in out
    assert main([*words, "--steps", "2", "--workdir", str(tmp_path / "pieces")]) == 0
    shutil.rmtree(source)
    assert main([*words, "--workdir", str(tmp_path / "pieces")]) == 0
    assert saved_state(tmp_path / "pieces") == saved_state(tmp_path / "whole")

    before, after = params_of(small_run), params_of(tmp_path / "whole")
    trained = {name for name in before if "/mixer/" in name or name == "embedding"}
    assert {name for name in before if after[name] != before[name]} == trained != set(before)
    moments = {name for name in saved_state(tmp_path / "whole") if "/mu/" in name}
    assert {name.partition("/mu/")[2] for name in moments} == trained


@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=2, tensor=2)])
def test_frozen_parameters_on_a_mesh(tmp_path, text, mesh):
    """Rows of metrics are those of one device to rounding."""
    config = dataclasses.replace(small(text, steps=3, model__num_layers=1), train=("matrix",))
    train(config, str(tmp_path / "one"))
    train(dataclasses.replace(config, mesh=mesh), str(tmp_path / "mesh"))
    for row, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "mesh"), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_fresh_parameters_start_at_random(text, small_run):
    """A larger vocabulary is refused with the differences, unless the embedding is said to be fresh."""
    other = small(text, model__vocab_size=320)
    with pytest.raises(
        ValueError, match=r"are not those of this model; start.fresh .*\n  embedding: checkpoint has \(288, 16\), this"
    ):
        first_state(dataclasses.replace(other, start=Run(str(small_run))))
    config = dataclasses.replace(other, start=Run(str(small_run), fresh=("embedding",)))
    found, drawn = bytes_of(first_state(config).params), bytes_of(first_state(other).params)
    assert found["embedding"] == drawn["embedding"]
    del found["embedding"]
    assert found == {name: value for name, value in params_of(small_run).items() if name != "embedding"}


REFUSED = {
    "no run": ({"start": Run("{tmp}/nothing")}, "is not the directory of a run: it has no checkpoints"),
    "no such step": ({"start": Run("{run}", step=7)}, "no checkpoint of step 7 in .*; there are: 4, 8, 12"),
    "nothing fresh": ({"start": Run("{run}", fresh=("embeding",))}, "start.fresh: 'embeding' matches no parameter"),
    "nothing trained": ({"train": ("*/mixr/*",)}, r"train: '\*/mixr/\*' matches no parameter.*choose a role"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_starts_that_do_not_fit_are_refused(tmp_path, text, small_run, changes, message):
    """They are refused before anything is written."""
    changes = dict(changes)
    if "start" in changes:
        place = changes["start"].workdir.format(tmp=tmp_path, run=small_run)
        changes["start"] = dataclasses.replace(changes["start"], workdir=place)
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(small(text), **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert checkpoints(small_run)[-1] == 12


def test_plan_counts_gradients_of_trained_parameters(text):
    config = dataclasses.replace(small(text, model__num_layers=1), mesh=MeshConfig(data=2))
    whole = make_plan(config)
    part = make_plan(dataclasses.replace(config, train=("embedding",)))
    count = declarations(config)["embedding"].shape
    assert list(trained_declarations(dataclasses.replace(config, train=("embedding",)))) == ["embedding"]
    assert part.gradients == 4 * count[0] * count[1] < whole.gradients == whole.parameters == part.parameters
    assert part.optimizer < whole.optimizer
    assert part.cost.flops < whole.cost.flops


def test_trees_are_split_and_merged():
    tree = {"a": {"x": 1, "y": {"z": 2}}, "b": 3, "c": {"w": 4}}
    inside, outside = patterns.split(tree, {"a/y/z", "b"})
    assert (inside, outside) == ({"a": {"y": {"z": 2}}, "b": 3}, {"a": {"x": 1}, "c": {"w": 4}})
    assert patterns.merge(inside, outside) == tree
    assert patterns.split(tree, {"a/x", "a/y/z", "b", "c/w"}) == (tree, {})
    assert Random().arrays({}) == {}
