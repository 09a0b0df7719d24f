"""Saves that fail or are killed leave no incomplete checkpoint and lose no earlier one."""

import os
import resource
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from support.checkpointing import abstract, files
from train import checkpoint
from train.checkpoint import CheckpointConfig, Checkpointer


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 kB: the system call fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("surfaces_in", ["wait", "save", "close", "restore"])
def test_failing_save_surfaces_and_older_ones_stay(checkpoints, state_200, small_disk, surfaces_in):
    before = files(checkpoints)
    checkpointer = Checkpointer(checkpoints, CheckpointConfig(keep=1))
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
    assert {name: content for name, content in files(checkpoints).items() if name[0] != "w"} == before
    if surfaces_in != "close":
        checkpointer.save(300, state_200, wait=True)  # once there is room, the same step can be saved
        assert sorted(os.listdir(checkpoints)) == ["300"]
        checkpointer.close()


def test_failing_seal_surfaces(checkpoints, state_200, monkeypatch):
    """An error after orbax is done and before the rename."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.checkpoint_check, "seal", fail)
    with Checkpointer(checkpoints, CheckpointConfig(keep=1)) as checkpointer:
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
    phases = {  # what the checkpoints shows at the moment of the kill
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
