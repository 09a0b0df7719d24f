"""Checkpoints: bit-identical round trips, damage always noticed, misfits refused, kills and full disks survived."""

import dataclasses
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from train import checkpoint, checkpoint_check
from train.checkpoint import CheckpointConfig, Checkpointer, DamagedCheckpointError, steps_to_keep


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: tuple
    key: jax.Array


def make_state(step: int) -> State:
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "blocks": {"kernel": jax.random.normal(keys[0], (64, 32)), "scale": jnp.full((16,), 1 + step, jnp.bfloat16)},
        "embedding": jax.random.normal(keys[1], (8, 4)),
    }
    opt_state = optax.adamw(1e-3).init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), opt_state)
    return State(jnp.asarray(step, jnp.int32), params, opt_state, keys[2])


def shard(state: State, mesh_shape=None, axes=(), kernel=()) -> State:
    """On one device, or replicated over a mesh except for the kernels, which are split."""
    if mesh_shape is None:
        return jax.device_put(state, SingleDeviceSharding(jax.devices()[0]))
    mesh = jax.make_mesh(mesh_shape, axes)

    def place(path, leaf):
        split = kernel if "kernel" in jax.tree_util.keystr(path) else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*split)))

    return jax.tree_util.tree_map_with_path(place, state)


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def bits(leaf) -> bytes:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()


def assert_same(found, expected):
    """The same tree types, dtypes, shapes, shardings and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape, one.sharding) == (other.dtype, other.shape, other.sharding)
        assert bits(one) == bits(other)


def files(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in pathlib.Path(directory).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Checkpoints 100 and 200 of `make_state`, to be copied and never changed."""
    directory = tmp_path_factory.mktemp("template") / "checkpoints"
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        for step in (100, 200):
            checkpointer.save(step, shard(make_state(step)))
    return directory


@pytest.fixture
def directory(template, tmp_path):
    return pathlib.Path(shutil.copytree(template, tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def state_100():
    return shard(make_state(100))


@pytest.fixture(scope="module")
def state_200():
    return shard(make_state(200))


# ---------------------------------------------------------------------------------------------------- round trips


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


def test_step_by_number(directory, state_100, state_200):
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        assert_same(checkpointer.restore(abstract(state_100), step=100), state_100)
        assert checkpointer.restored_step == 100
        assert_same(checkpointer.restore(abstract(state_100)), state_200)
        assert checkpointer.restored_step == 200
        with pytest.raises(ValueError, match=r"no checkpoint of step 150 .* there are: 100, 200"):
            checkpointer.restore(abstract(state_100), step=150)


def test_params_alone(directory, state_200):
    params = shard(state_200.params, (8,), ("data",), ("data",))
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
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


# ---------------------------------------------------------------------------------------------------------- misfits


def test_misfit_lists_every_leaf_and_touches_nothing(directory):
    state = make_state(200)
    params = state.params | {
        "head": jnp.zeros((4, 2)),
        "blocks": state.params["blocks"] | {"kernel": jnp.zeros((64, 64))},
    }
    del params["embedding"]
    moments = state.opt_state[0]._replace(count=jnp.zeros((), jnp.float32))
    other = State(state.step, params, (moments, *state.opt_state[1:]), jax.random.key(0, impl="rbg"))
    before = files(directory)
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        with pytest.raises(ValueError, match="does not fit") as error:
            checkpointer.restore(abstract(shard(other)))
        assert str(error.value).splitlines() == [
            f"the checkpoint {directory}/200 does not fit this run:",
            "  key: checkpoint has key<fry>[], this run expects key<rbg>[]",
            "  opt_state/0/count: checkpoint has int32[], this run expects float32[]",
            "  params/blocks/kernel: checkpoint has float32[64,32], this run expects float32[64,64]",
            "  params/embedding: checkpoint has float32[8,4], this run expects nothing",
            "  params/head: checkpoint has nothing, this run expects float32[4,2]",
        ]
        assert files(directory) == before

        # A damaged newest one before a misfit: the damaged one stays where it is, too.
        (directory / "200" / "record.json").unlink()
        before = files(directory)
        with pytest.raises(ValueError, match=f"{directory}/100 does not fit"):
            checkpointer.restore(abstract(shard(other)))
        assert files(directory) == before


def test_sharding_is_required(directory, state_200):
    without = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state_200)
    with (
        Checkpointer(directory, CheckpointConfig()) as checkpointer,
        pytest.raises(ValueError, match="step: .* no sharding"),
    ):
        checkpointer.restore(without)


# ----------------------------------------------------------------------------------------------------------- damage


def damages(content: bytes):
    """(name, new content or None for deletion)."""
    yield "deleted", None
    if content:
        yield "emptied", b""
        yield "halved", content[: len(content) // 2]
        yield "last byte cut", content[:-1]
        for position in {0, len(content) // 3, len(content) - 1}:
            yield (
                f"bit flipped at {position}",
                (content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]),
            )
        yield "line end appended", content + b"\n"
        yield "letter appended", content + b"x"


def test_every_damage_to_every_file_is_noticed(directory, state_100):
    newest, unnoticed, cases = directory / "200", [], 0
    target = abstract(state_100)
    for name, content in files(newest).items():
        for kind, damaged in damages(content):
            cases += 1
            if damaged is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(damaged)
            messages = []
            with Checkpointer(directory, CheckpointConfig(), messages.append) as checkpointer:
                restored = checkpointer.restore(target)
                fallen_back = checkpointer.restored_step == 100
            aside = directory / "corrupt-200-1"
            if not (fallen_back and aside.is_dir() and "step 200 is damaged" in messages[0]):
                unnoticed.append(f"{name} {kind}: {messages}")
            else:
                assert bits(restored.params["embedding"]) == bits(state_100.params["embedding"])
                assert files(aside).get(name) == damaged  # the evidence is kept as it was found
                os.rename(aside, newest)
            (newest / name).write_bytes(content)
    assert not unnoticed
    assert cases > 60
    assert checkpoint_check.damage(newest) == []


def test_checksums_that_lost_their_last_lines(directory):
    sums = directory / "200" / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-2]))
    assert len(checkpoint_check.damage(directory / "200")) == 2


def test_checksums_are_those_of_sha256sum(directory):
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=directory / "200", check=True)


def test_bad_sector_is_damage_and_no_permission_is_not(directory, monkeypatch):
    def failing(number):
        def read(path, *, sync=False):
            raise OSError(number, os.strerror(number))

        return read

    monkeypatch.setattr(checkpoint_check, "_sha256", failing(5))
    assert "cannot be read: Input/output error" in checkpoint_check.damage(directory / "200")[0]
    monkeypatch.setattr(checkpoint_check, "_sha256", failing(13))
    with pytest.raises(PermissionError):
        checkpoint_check.damage(directory / "200")


def test_same_step_can_be_saved_after_moving_aside(directory, state_200):
    with Checkpointer(directory, CheckpointConfig(), lambda message: None) as checkpointer:
        for number in (1, 2):
            (directory / "200" / "state" / "_METADATA").write_text("{}")
            checkpointer.restore(abstract(state_200))
            checkpointer.save(200, state_200, wait=True)
            assert (directory / f"corrupt-200-{number}").is_dir()
            assert checkpointer.steps == (100, 200)
            assert_same(checkpointer.restore(abstract(state_200)), state_200)


def test_all_damaged_is_an_error_at_every_start(directory, state_200):
    for step in (100, 200):
        (directory / str(step) / "state" / "manifest.ocdbt").unlink()
    before = files(directory)
    for _ in range(2):  # a second start must not take the directory for a new one
        messages = []
        with Checkpointer(directory, CheckpointConfig(), messages.append) as checkpointer:
            with pytest.raises(
                DamagedCheckpointError, match=r"(?s)/200: state/manifest.ocdbt is missing\n.*/100: state"
            ):
                checkpointer.restore(abstract(state_200))
            assert checkpointer.steps == (100, 200)
    assert files(directory) == before


def test_asked_for_a_damaged_step(directory, state_200):
    (directory / "200" / "record.json").unlink()
    before = files(directory)
    with (
        Checkpointer(directory, CheckpointConfig(), lambda message: None) as checkpointer,
        pytest.raises(DamagedCheckpointError, match="record.json is missing"),
    ):
        checkpointer.restore(abstract(state_200), step=200)
    assert files(directory) == before


def test_evaluation_moves_nothing(directory, state_100):
    """Another run may be saving here: no damaged checkpoint is moved, no unfinished save removed."""
    (directory / "200" / "record.json").unlink()
    (directory / "writing-300").mkdir()
    (directory / "writing-300" / "data").write_text("")
    before = files(directory)
    with Checkpointer(directory, CheckpointConfig(), lambda message: None) as checkpointer:
        assert_same(checkpointer.restore_params(), state_100.params)
        assert checkpointer.restored_step == 100
    assert files(directory) == before


# ------------------------------------------------------------------------------------------- what is kept, and order


def test_newest_and_best_are_kept(tmp_path):
    tree = shard({"params": jnp.zeros(3)})
    losses = {1: float("nan"), 2: 5.0, 3: jnp.float32(1.0), 4: 4.0, 5: None, 6: 2.0}
    with Checkpointer(tmp_path, CheckpointConfig(keep=2)) as checkpointer:
        for step, loss in losses.items():
            checkpointer.save(step, tree, validation_loss=loss)
        checkpointer.wait()
        assert checkpointer.steps == (3, 5, 6)
    with Checkpointer(tmp_path, CheckpointConfig(keep=1)) as checkpointer:  # losses outlive the process
        checkpointer.save(7, tree, wait=True)
        assert checkpointer.steps == (3, 7)
        checkpointer.save(np.int32(8), tree, validation_loss=0.5, wait=True)
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
    assert steps_to_keep(losses, CheckpointConfig(keep=keep, keep_best=keep_best)) == expected


def test_damaged_record_is_not_pruned_and_stops_nothing(directory, state_200):
    record = directory / "100" / "record.json"
    record.write_text(record.read_text().replace("null", "9.5 "))
    messages = []
    with Checkpointer(directory, CheckpointConfig(keep=1), messages.append) as checkpointer:
        checkpointer.save(300, state_200, wait=True)
        assert checkpointer.steps == (100, 300)
    assert "step 100 is damaged" in messages[0]


def test_order_of_saves(directory, state_100, state_200):
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        for step in (150, 200):
            with pytest.raises(ValueError, match=rf"cannot save step {step}: .* up to step 200"):
                checkpointer.save(step, state_100)
        checkpointer.restore(abstract(state_200))
        before = files(directory)
        checkpointer.save(200, state_200, wait=True)  # restored, stopped before the first step, saved again
        assert files(directory) == before
        checkpointer.save(300, state_200)
        checkpointer.save(300, state_200, wait=True)  # the regular save, then the one at the end
        assert checkpointer.steps == (100, 200, 300)


def test_config_is_checked():
    with pytest.raises(ValueError, match=r"checkpoint\.every is 0; it must be at least 1"):
        CheckpointConfig(every=0)
    with pytest.raises(ValueError, match=r"checkpoint\.keep is -1"):
        CheckpointConfig(keep=-1)
    assert {field.name for field in dataclasses.fields(CheckpointConfig)} == {"every", "keep", "keep_best"}


# ------------------------------------------------------------------------------------------------ failures and kills


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 kB: the system call fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("surfaces_in", ["wait", "save", "close", "restore"])
def test_failing_save_surfaces_and_older_ones_stay(directory, state_200, small_disk, surfaces_in):
    before = files(directory)
    checkpointer = Checkpointer(directory, CheckpointConfig(keep=1))
    checkpointer.save(300, state_200)
    calls = {
        "wait": checkpointer.wait,
        "save": lambda: checkpointer.save(400, state_200),
        "close": checkpointer.close,
        "restore": lambda: checkpointer.restore(abstract(state_200)),
    }
    with pytest.raises(RuntimeError, match=r"step 300 could not be written.*there: 100, 200") as error:
        calls[surfaces_in]()
    assert error.value.__cause__ is not None
    small_disk()
    assert {name: content for name, content in files(directory).items() if name[0] != "w"} == before
    if surfaces_in != "close":
        checkpointer.save(300, state_200, wait=True)  # once there is room, the same step can be saved
        assert sorted(os.listdir(directory)) == ["300"]
        checkpointer.close()


def test_failing_seal_surfaces(directory, state_200, monkeypatch):
    """An error after orbax is done and before the rename."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.checkpoint_check, "seal", fail)
    with Checkpointer(directory, CheckpointConfig(keep=1)) as checkpointer:
        checkpointer.save(300, state_200)
        with pytest.raises(RuntimeError, match="step 300 could not be written.*No space left"):
            checkpointer.wait()
        assert checkpointer.steps == (100, 200)


SAVER = """
import sys
import jax, jax.numpy as jnp, numpy as np
from train.checkpoint import Checkpointer, CheckpointConfig

def state(step):
    return {"params": jnp.asarray(np.random.default_rng(step).normal(size=(300, 300)))}

one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
target = {"params": jax.ShapeDtypeStruct((300, 300), jnp.float32, sharding=one)}
with Checkpointer(sys.argv[1], CheckpointConfig(keep=1)) as checkpointer:
    checkpointer.restore(target)
    for step in range(1 + max(checkpointer.steps, default=0), 2000):
        checkpointer.save(step, state(step))
"""


def test_kill_at_any_instant(tmp_path):
    """SIGKILL in each phase of a save: the newest complete checkpoint is undamaged and never older than before."""
    one = SingleDeviceSharding(jax.devices()[0])
    target = {"params": jax.ShapeDtypeStruct((300, 300), jnp.float32, sharding=one)}
    phases = {  # what the directory shows at the moment of the kill
        "orbax is writing": lambda names: any(name.startswith("writing") and "tmp" in name for name in names),
        "being sealed": lambda names: any(name.startswith("writing") and "tmp" not in name for name in names),
        "two complete, the older one about to go": lambda names: sum(name.isdecimal() for name in names) > 1,
        "the older one half deleted": lambda names: any(name.startswith("deleting") for name in names),
    }
    last = 0
    for phase, reached in phases.items():
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)])
        try:
            goal, deadline = last + 2, time.monotonic() + 60  # two saves after the restart, so that all is under way
            while True:
                assert time.monotonic() < deadline, f"never seen: {phase}"
                assert process.poll() is None, f"the saving process has ended by itself: {phase}"
                names = os.listdir(tmp_path)
                complete = max((int(name) for name in names if name.isdecimal()), default=0)
                if complete >= goal and reached(names):
                    break
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        messages = []
        with Checkpointer(tmp_path, CheckpointConfig(), messages.append) as checkpointer:
            restored = checkpointer.restore(target)
            assert checkpointer.steps, phase
            last = checkpointer.restored_step
        assert messages == [], phase
        assert last >= complete, phase
        expected = np.random.default_rng(last).normal(size=(300, 300)).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(restored["params"]), expected)
