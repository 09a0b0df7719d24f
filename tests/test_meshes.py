"""One run on many devices: the same batches, the same losses to rounding, and the memory that the rules promise."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest

from matrix_ops import ops_by_definition
from recurrax.mixers import GLA, RGLRU, RWKV7, S4D, Attention, GatedDeltaNet, LatentAttention, Mamba
from recurrax.models import BlockConfig, LanguageModel
from recurrax.projections import MixtureOfExperts
from runs import arrays, assert_same_run, checkpoints, metrics, small
from train import sharding
from train.checkpoint import CheckpointConfig, Checkpointer
from train.data import Rows, batch_at, open_documents
from train.evaluate import make_evaluator
from train.loop import train
from train.objectives import NextToken
from train.sharding import MeshConfig
from train.state import abstract_state, init_state
from train.step import make_train_step

pytestmark = pytest.mark.usefixtures("compiled_once")

ONE = MeshConfig(data=1)
MESHES = {
    "data=8": MeshConfig(data=8),
    "data=2,fsdp=4": MeshConfig(data=2, fsdp=4),
    "data=2,fsdp=2,tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
}
GRIFFIN = (RGLRU(num_heads=2), Attention(num_heads=2, num_kv_heads=1, window=16))
# One mixer of each family of ops, and experts.
HYBRID = (
    RGLRU(num_heads=2),
    S4D(state_dim=8),
    BlockConfig(GLA(num_heads=2), MixtureOfExperts(hidden=8, num_experts=4, experts_per_token=2)),
    GatedDeltaNet(num_heads=2),
    Attention(num_heads=2, num_kv_heads=1, window=24),  # longer than a shard of 16: all are gathered
)
TIME = MeshConfig(data=2, time=4)
STEPS = 8
CLOSE = 1e-5  # relative; measured: at most 2e-7


@functools.cache
def program(text, mesh_config, pattern=GRIFFIN, **optimizer):
    """The config of this pattern on this mesh, its abstract state and its step."""
    config = small(text, model__num_layers=len(pattern), optimizer__schedule__warmup_steps=2, **optimizer)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pattern=pattern), mesh=mesh_config)
    mesh = sharding.make_mesh(mesh_config)
    abstract = abstract_state(config, mesh)
    return config, mesh, abstract, make_train_step(config, abstract, mesh)


@functools.cache
def packed(text):
    config = small(text)
    return Rows(open_documents(config.data, "train"), config.data.sequence_length)


def on_devices(text, config, mesh, step):
    """The batch of a step as the loop puts it on the devices."""
    split = sharding.batch_sharding(mesh)
    rows = sharding.local_rows(split, config.data.batch_size)
    return sharding.to_devices(batch_at(packed(text), config.data, config.seed, step, rows), split)


def go_on(text, mesh_config, state=None, steps=STEPS, **options):
    """The state after `steps` steps, and loss and gradient norm of each step from the one of `state` on."""
    config, mesh, abstract, train_step = program(text, mesh_config, **options)
    state = init_state(config, abstract) if state is None else state
    numbers = []
    for step in range(int(state.step), steps):
        state, found = train_step(state, on_devices(text, config, mesh, step))
        numbers.append([float(found["loss"]), float(found["grad_norm"])])
    return state, np.array(numbers)


@pytest.fixture(scope="module")
def alone(text):
    """Loss and gradient norm of every step on one device."""
    numbers = go_on(text, ONE)[1]
    assert numbers[-1, 0] < numbers[0, 0] - 0.3  # it learns; equal losses mean something
    return numbers


@pytest.mark.parametrize("mesh_config", MESHES.values(), ids=MESHES)
def test_losses_are_those_of_one_device(text, alone, mesh_config):
    state, numbers = go_on(text, mesh_config)
    assert len(state.params["embedding"].sharding.device_set) == 8
    np.testing.assert_allclose(numbers, alone, rtol=CLOSE)


@functools.cache
def first_parameters(config):
    init = jax.jit(lambda key: LanguageModel(config).init(key, np.zeros((1, 1), np.int32))["params"])
    return jax.device_get(init(jax.random.key(0)))


@functools.cache
def hybrid(text, mesh_config):
    """Loss and all gradients of a hybrid on a batch with several documents, with parameters split by the rules."""
    config, mesh, abstract, _ = program(text, mesh_config, HYBRID)
    model = LanguageModel(config.model)
    splits = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)

    def loss(params, batch):
        with sharding.on(mesh):
            total, count, *_ = NextToken().loss(model, params, batch)
        return total / count

    params = jax.device_put(first_parameters(config.model), splits)
    batch = on_devices(text, config, mesh, 0)
    batch["reset"] = batch["reset"].at[:, 13].set(True)
    # Each op is split in all its forms in test_time_sharding: here it is the layers, in programs of a third the size.
    with ops_by_definition():
        value, gradients = jax.jit(jax.value_and_grad(loss))(params, batch)
    return float(value), arrays(gradients)


def test_hybrid_trains_on_split_rows_heads_and_time(text):
    """A hybrid of all families has the loss and the gradients of one device on split rows, heads and time."""
    loss, gradients = hybrid(text, MeshConfig(fsdp=2, tensor=2, time=2))
    wanted_loss, wanted = hybrid(text, ONE)
    assert loss == pytest.approx(wanted_loss, rel=CLOSE)
    for name, found in gradients.items():
        error = np.linalg.norm(found - wanted[name]) / np.linalg.norm(wanted[name])
        assert error < 10 * CLOSE, (name, error)


def test_time_mesh_supports_remat_and_held_out_text(text, alone):
    """A sequence cut in time is recomputed in the backward pass, and held-out text is read."""
    _, numbers = go_on(text, TIME, steps=2, model__remat="nothing_saveable")
    np.testing.assert_allclose(numbers, alone[:2], rtol=CLOSE)
    held_out = {}
    for each in (ONE, TIME):
        config, mesh, abstract, _ = program(text, each)
        documents = open_documents(config.data, "validation")
        evaluate = make_evaluator(config.model, mesh, config.data.sequence_length, config.evaluation.batch_size)
        held_out[each] = evaluate(init_state(config, abstract).params, documents, max_batches=3)
    assert held_out[TIME].num_tokens == held_out[ONE].num_tokens
    assert held_out[TIME].loss == pytest.approx(held_out[ONE].loss, rel=CLOSE)


def test_slices_of_a_batch_are_the_whole_batch(text, alone):
    # Two slices on four devices: every device has a row of each slice.
    _, numbers = go_on(text, MeshConfig(data=4), optimizer__accumulate=2)
    np.testing.assert_allclose(numbers, alone, rtol=CLOSE)


@pytest.mark.parametrize("mesh_config", [ONE, *MESHES.values(), TIME], ids=["one device", *MESHES, "data=2,time=4"])
def test_mesh_deals_rows_of_equal_batches(text, mesh_config):
    """Batches are the same on every mesh, and their rows are dealt to the devices."""
    config, mesh, _, _ = program(text, mesh_config)
    for step in (0, 5):
        whole = batch_at(packed(text), config.data, config.seed, step)
        found = on_devices(text, config, mesh, step)
        assert found.keys() == whole.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(np.asarray(value), whole[name])
            parts = mesh.shape["data"] * mesh.shape["fsdp"]
            held = [shard.data.shape for shard in value.addressable_shards]
            stretch = config.data.sequence_length // mesh.shape["time"]
            assert held == [(config.data.batch_size // parts, stretch)] * mesh.devices.size


@pytest.mark.parametrize(("before", "after"), [("data=8", "data=2,fsdp=2,tensor=2"), ("data=2,fsdp=4", None)])
def test_checkpoint_resumes_on_another_mesh(text, alone, tmp_path, before, after):
    """A checkpoint of one mesh resumes on another."""
    after = MESHES[after] if after else ONE
    state, first = go_on(text, MESHES[before], steps=3)
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpointer:
        checkpointer.save(3, state, wait=True)
        restored = checkpointer.restore(program(text, after)[2])
    for name, value in arrays(restored).items():
        np.testing.assert_array_equal(value, arrays(state)[name], err_msg=name)
    _, second = go_on(text, after, restored)
    assert len(second) == STEPS - 3
    np.testing.assert_allclose(np.concatenate([first, second]), alone, rtol=CLOSE)


@pytest.mark.parametrize("mesh_config", MESHES.values(), ids=MESHES)
def test_device_bytes_match_the_sharding_rules(text, mesh_config):
    """The table, every matrix to or from the residual stream and the gates' blocks are split; the rest is whole."""
    config, mesh, abstract, _ = program(text, mesh_config)
    state = init_state(config, abstract)
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    matrices = 0
    on_device = dict.fromkeys(mesh.devices.flat, 0)
    expected = 0
    for tree in (state.params, state.opt_state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/").rpartition("/")[2]
            matrix = bool(re.match(r"embedding|in_|out_|(input|recurrence)_gate_kernel", name))
            matrices += matrix
            expected += math.prod(leaf.shape) * 4 // (parts if matrix else 1)
            for shard in leaf.addressable_shards:
                on_device[shard.device] += shard.data.nbytes
    # Embedding; 5 of the recurrence, 4 of attention, 3 of each of two projections; each with two moments.
    assert matrices == 3 * (1 + 5 + 4 + 2 * 3)
    assert set(on_device.values()) == {expected}
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert expected < 0.5 * whole or parts == 1


def test_added_rules_come_first(text):
    config = small(text, mesh__data=4, mesh__fsdp=2, mesh__rules=("in_gate$=-,fsdp",))
    params = abstract_state(config, sharding.make_mesh(config.mesh)).params
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    gates = [spec for name, spec in specs.items() if name.endswith("in_gate")]
    assert gates == [jax.P(None, "fsdp")] * 2  # the recurrence's and the projection's
    assert {spec for name, spec in specs.items() if name.endswith("in_kernel")} == {jax.P("fsdp", "tensor")}


def test_small_matrices_are_split_where_their_sizes_allow(text):
    mesh_config = MeshConfig(data=2, fsdp=2, tensor=2)
    pattern = (LatentAttention(num_heads=2), Mamba(state_dim=4), Mamba(state_dim=4, width=18), RWKV7(num_heads=2))
    config = small(text, model__num_layers=len(pattern))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pattern=pattern))
    params = abstract_state(config, sharding.make_mesh(mesh_config)).params["backbone"]["groups"]
    latent, mamba, odd, rwkv = (
        params[f"{i}_{type(mixer).__name__.lower()}"]["mixer"] for i, mixer in enumerate(pattern)
    )
    assert latent["key_kernel"].sharding.spec == jax.P(None, "fsdp", "tensor")
    assert mamba["select_kernel"].sharding.spec == jax.P(None, ("tensor", "fsdp"), None)
    assert odd["select_kernel"].sharding.spec == jax.P()  # 18 channels on 4 devices
    assert rwkv["decay_kernel"].sharding.spec == jax.P(None, None, ("tensor", "fsdp"))
    assert rwkv["norm_scale"].sharding.spec == jax.P()


def test_run_continues_on_another_mesh(text, tmp_path, capfd):
    """A run on many devices, in pieces and on another mesh, is one run."""
    split = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    train(small(text, **split), str(tmp_path / "whole"))
    train(small(text, **split, steps=5), str(tmp_path / "pieces"))
    train(small(text, **split), str(tmp_path / "pieces"))
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")  # the same mesh: to the last bit

    train(small(text, steps=5), str(tmp_path / "moved"))
    assert checkpoints(tmp_path / "moved")[-1] == 5
    capfd.readouterr()
    train(small(text, **split), str(tmp_path / "moved"))
    out = capfd.readouterr().out
    assert "Changed since this run was started: mesh.fsdp: 1 in the workdir, 2 now" in out
    assert "on data=2, fsdp=2, tensor=2" in out
    moved, whole = metrics(tmp_path / "moved"), metrics(tmp_path / "whole")
    assert [row["step"] for row in moved] == list(range(1, 13))
    for found, expected in zip(moved, whole, strict=True):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=CLOSE), (found["step"], name)
