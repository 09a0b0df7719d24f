"""Checkpoints: bit-identical round trips on any mesh, misfits refused, the newest and the best kept."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from support.checkpointing import State, abstract, assert_same, files, make_state, shard
from train.checkpoint import CheckpointConfig, Checkpointer, steps_to_keep


def test_round_trip_on_other_meshes(tmp_path, capfd):
    state = make_state(3)
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        checkpointer.save(3, shard(state, (8,), ("data",), ("data",)), wait=True)
        assert checkpointer.steps == (3,)
        for target in (
            shard(state, (8,), ("data",), ("data",)),
            shard(state, (2, 4), ("data", "tensor"), ("tensor", "data")),
            shard(state),
        ):
            assert_same(checkpointer.restore(abstract(target)), target)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""  # nothing to say, nothing said


def test_values_are_those_at_the_call(tmp_path):
    """The save goes on while the caller donates the arrays."""
    bump = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    tree = shard({"params": jnp.zeros((500, 500))})
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        checkpointer.save(1, tree)
        for _ in range(10):
            tree = bump(tree)
        restored = checkpointer.restore(abstract(tree))
    assert_same(restored, shard({"params": jnp.zeros((500, 500))}))


def test_empty_directory_and_reading_create_nothing(tmp_path, state_100):
    with Checkpointer(tmp_path / "none", CheckpointConfig()) as checkpointer:
        assert checkpointer.steps == ()
        assert checkpointer.restore(abstract(state_100)) is None
        assert checkpointer.restore_params() is None
    assert not (tmp_path / "none").exists()


def test_step_by_number(checkpoints, state_100, state_200):
    with Checkpointer(checkpoints, CheckpointConfig()) as checkpointer:
        assert_same(checkpointer.restore(abstract(state_100), step=100), state_100)
        assert checkpointer.restored_step == 100
        assert_same(checkpointer.restore(abstract(state_100)), state_200)
        assert checkpointer.restored_step == 200
        with pytest.raises(ValueError, match=r"no checkpoint of step 150 .* there are: 100, 200"):
            checkpointer.restore(abstract(state_100), step=150)


def test_params_alone(checkpoints, state_200):
    params = shard(state_200.params, (8,), ("data",), ("data",))
    with Checkpointer(checkpoints, CheckpointConfig()) as checkpointer:
        assert_same(checkpointer.restore_params(abstract(params)), params)
        assert_same(checkpointer.restore_params(), state_200.params)
        with pytest.raises(
            ValueError, match=r"params/embedding: checkpoint has float32\[8,4\], this run expects nothing"
        ):
            checkpointer.restore_params({"blocks": abstract(params["blocks"])})


def test_parameters_that_are_constants_now_are_left_out(tmp_path):
    """Decays of Lightning and TransNormerLLM and their moments; anything else that is not expected is refused."""
    optimizer = optax.adamw(1e-3)
    params = {"0_lightning": {"mixer": {"decay": jnp.ones(4), "in_q": jnp.full((4, 4), 2.0)}}}
    old = shard(State(jnp.int32(7), params, optimizer.init(params), jax.random.key(0)))
    params = {"0_lightning": {"mixer": {"in_q": params["0_lightning"]["mixer"]["in_q"]}}}
    new = shard(State(jnp.int32(7), params, optimizer.init(params), jax.random.key(0)))
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        checkpointer.save(7, old, wait=True)
        assert_same(checkpointer.restore(abstract(new)), new)
        assert_same(checkpointer.restore_params(abstract(new.params)), new.params)
        other = abstract(new).replace(
            params={"0_lightning": {"mixer": {"in_k": abstract(params)["0_lightning"]["mixer"]["in_q"]}}}
        )
        with pytest.raises(ValueError, match=r"does not fit this run:\n  params/0_lightning/mixer/in_k") as refusal:
            checkpointer.restore(other)
    assert "decay" not in str(refusal.value)


def test_relative_directory(tmp_path, monkeypatch, state_100):
    monkeypatch.chdir(tmp_path)
    with Checkpointer("here", CheckpointConfig()) as checkpointer:
        checkpointer.save(1, state_100)
    assert (tmp_path / "here" / "1").is_dir()


def test_misfit_lists_every_leaf_and_touches_nothing(checkpoints):
    state = make_state(200)
    params = state.params | {
        "head": jnp.zeros((4, 2)),
        "blocks": state.params["blocks"] | {"kernel": jnp.zeros((64, 64))},
    }
    del params["embedding"]
    moments = state.opt_state[0]._replace(count=jnp.zeros((), jnp.float32))
    other = State(state.step, params, (moments, *state.opt_state[1:]), jax.random.key(0, impl="rbg"))
    before = files(checkpoints)
    with Checkpointer(checkpoints, CheckpointConfig()) as checkpointer:
        with pytest.raises(ValueError, match="does not fit") as error:
            checkpointer.restore(abstract(shard(other)))
        assert str(error.value).splitlines() == [
            f"the checkpoint {checkpoints}/200 does not fit this run:",
            "  key: checkpoint has key<fry>[], this run expects key<rbg>[]",
            "  opt_state/0/count: checkpoint has int32[], this run expects float32[]",
            "  params/blocks/kernel: checkpoint has float32[64,32], this run expects float32[64,64]",
            "  params/embedding: checkpoint has float32[8,4], this run expects nothing",
            "  params/head: checkpoint has nothing, this run expects float32[4,2]",
        ]
        assert files(checkpoints) == before

        # A damaged newest one before a misfit: the damaged one stays where it is, too.
        (checkpoints / "200" / "record.json").unlink()
        before = files(checkpoints)
        with pytest.raises(ValueError, match=f"{checkpoints}/100 does not fit"):
            checkpointer.restore(abstract(shard(other)))
        assert files(checkpoints) == before


def test_sharding_is_required(checkpoints, state_200):
    without = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state_200)
    with (
        Checkpointer(checkpoints, CheckpointConfig()) as checkpointer,
        pytest.raises(ValueError, match="step: .* no sharding"),
    ):
        checkpointer.restore(without)


def test_newest_and_best_are_kept(tmp_path):
    tree = shard({"params": jnp.zeros(3)})
    losses = {1: float("nan"), 2: 5.0, 3: jnp.float32(1.0), 4: 4.0, 5: None, 6: 2.0}
    with Checkpointer(tmp_path, CheckpointConfig(keep=2)) as checkpointer:
        for step, loss in losses.items():
            checkpointer.save(step, tree, held_out={} if loss is None else {"loss": loss})
        checkpointer.wait()
        assert checkpointer.steps == (3, 5, 6)
    with Checkpointer(tmp_path, CheckpointConfig(keep=1)) as checkpointer:  # losses outlive the process
        checkpointer.save(7, tree, wait=True)
        assert checkpointer.steps == (3, 7)
        checkpointer.save(np.int32(8), tree, held_out={"loss": 0.5}, wait=True)
        assert checkpointer.steps == (8,)
    assert sorted(os.listdir(tmp_path)) == ["8"]


@pytest.mark.parametrize(
    ("losses", "keep", "keep_best", "expected"),
    [
        ({1: None, 2: None, 3: None}, 2, True, {2, 3}),
        ({1: 0.1, 2: 0.2, 3: 0.3}, 1, False, {3}),
        ({1: 0.1, 2: 0.1, 3: 0.3}, 1, True, {2, 3}),
        ({9: 1.0, 10: 2.0}, 1, True, {9, 10}),
        ({1: 1.0}, 5, True, {1}),
    ],
)
def test_steps_to_keep(losses, keep, keep_best, expected):
    """The newest ones and that of the lowest value, or, of a metric that rises, of the highest."""
    turned = {step: None if loss is None else -loss for step, loss in losses.items()}
    assert steps_to_keep(turned, CheckpointConfig(keep=keep, keep_best=keep_best), rises=True) == expected
    assert steps_to_keep(losses, CheckpointConfig(keep=keep, keep_best=keep_best)) == expected


def test_best_is_that_of_the_named_metric(tmp_path):
    """Of a metric that rises the largest; also of checkpoints that another choice had kept."""
    tree = shard({"params": jnp.zeros(3)})
    config = CheckpointConfig(keep=1, best="accuracy")
    with Checkpointer(tmp_path, config, rising=("accuracy",)) as checkpointer:
        for step, accuracy in enumerate((0.5, 0.9, 0.7, 0.6), 1):
            checkpointer.save(step, tree, held_out={"loss": step, "accuracy": accuracy})
        checkpointer.wait()
        assert checkpointer.steps == (2, 4)
    with Checkpointer(tmp_path, dataclasses.replace(config, best="loss")) as checkpointer:
        checkpointer.save(5, tree, held_out={"loss": 9.0}, wait=True)
        assert checkpointer.steps == (2, 5)


def test_order_of_saves(checkpoints, state_100, state_200):
    with Checkpointer(checkpoints, CheckpointConfig()) as checkpointer:
        for step in (150, 200):
            with pytest.raises(ValueError, match=rf"cannot save step {step}: .* up to step 200"):
                checkpointer.save(step, state_100)
        checkpointer.restore(abstract(state_200))
        before = files(checkpoints)
        checkpointer.save(200, state_200, wait=True)  # restored, stopped before the first step, saved again
        assert files(checkpoints) == before
        checkpointer.save(300, state_200)
        checkpointer.save(300, state_200, wait=True)  # the regular save, then the one at the end
        assert checkpointer.steps == (100, 200, 300)


def test_config_is_checked():
    with pytest.raises(ValueError, match=r"checkpoint\.every is 0; it must be at least 1"):
        CheckpointConfig(every=0)
    with pytest.raises(ValueError, match=r"checkpoint\.keep is -1"):
        CheckpointConfig(keep=-1)
    assert {field.name for field in dataclasses.fields(CheckpointConfig)} == {"every", "keep", "keep_best", "best"}
