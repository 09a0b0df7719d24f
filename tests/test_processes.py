"""One run of several processes: two with four devices each, then four with two, then this one with eight."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from runs import ROOT, checkpoints, flags, metrics, small
from train import processes
from train.__main__ import main
from train.loop import train

pytestmark = pytest.mark.usefixtures("compiled_once")

MESH = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.time": 2}
SETTINGS = MESH | {"steps": 24, "optimizer.schedule.decay_steps": 24, "checkpoint.every": 4, "evaluation.every": 50}
CLOSE = 1e-5

# Sends itself signal argv[1] before batch argv[2], says which rows it reads, and takes its time: a signal takes
# a second to be passed on.
PROCESS = """
import os, sys, time
from train import loop, session, processes, sharding
number, when, calls = int(sys.argv[1]), int(sys.argv[2]), 0
to_devices, train_batches = sharding.to_devices, session.train_batches

def watched(*arguments):
    global calls
    calls += 1
    if calls == when:
        os.kill(os.getpid(), number)
    time.sleep(0.25)
    return to_devices(*arguments)

def told(rows, config, seed, start, local):
    print(f"rows {local.start} to {local.stop}", file=sys.stderr)
    return train_batches(rows, config, seed, start, local)

sharding.to_devices, session.train_batches, processes.HEARTBEAT_SECONDS = watched, told, 6
from train.__main__ import main
sys.exit(main(sys.argv[3:]))
"""


def run(workdir, text, count, number, when, which=-1, **mesh):
    """`count` processes that share eight devices; one sends itself a signal. Exit codes, outputs and errors."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(8 // count)}
    started = []
    for i in range(count):
        here = ["--coordinator", f"localhost:{port}", "--num-processes", count, "--process-id", i]
        settings = ["tiny", "--workdir", workdir, *flags(text, **{**SETTINGS, **mesh}), "--distributed", *here]
        words = ["-c", PROCESS, int(number), when if i == which % count else 0, *settings]
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def losses(path):
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in metrics(path)}


def assert_close(path, expected):
    found, wanted = losses(path), losses(expected)
    assert list(found) == list(wanted)[: len(found)]
    np.testing.assert_allclose(list(found.values()), list(wanted.values())[: len(found)], rtol=CLOSE)


def test_two_then_four_then_one(tmp_path, text):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    settings = {name.replace(".", "__"): value for name, value in SETTINGS.items()}
    train(small(text, **settings), str(alone))

    ended = run(shared, text, 2, signal.SIGTERM, 3)
    assert [code for code, _, _ in ended] == [0, 0], ended
    (_, first_out, first_error), (_, second_out, second_error) = ended
    step = checkpoints(shared)[-1]
    assert 3 <= step < 24
    assert f"Stopped by a signal: step {step} is saved" in first_out
    assert "loss" not in second_out  # process 0 alone speaks
    assert "rows 0 to 4" in first_error
    assert "rows 4 to 8" in second_error
    assert max(losses(shared)) == step
    assert_close(shared, alone)

    # A checkpoint of two, resumed by four, of which one dies: the others do not wait for it, and nothing is lost.
    # Here two processes share the stretches of the same rows.
    ended = run(shared, text, 4, signal.SIGKILL, 4, **{"mesh.fsdp": 1, "mesh.time": 4})
    assert ended[-1][0] == -signal.SIGKILL
    for code, _, error in ended[:-1]:
        assert code != 0
        assert "another task died" in error
    assert f"Going on from step {step} in {shared}" in ended[0][1]
    assert ["rows 4 to 8" in error for _, _, error in ended] == [False, False, True, True]
    assert checkpoints(shared)[-1] >= step

    # Process 0 is the one that all others ask whether the rest is alive.
    ended = run(shared, text, 2, signal.SIGKILL, 3, which=0)
    assert ended[0][0] == -signal.SIGKILL
    assert ended[1][0] != 0
    assert "another task died" in ended[1][2]
    assert checkpoints(shared)[-1] >= step

    train(small(text, **settings), str(shared))
    assert checkpoints(shared)[-1] == 24
    assert len(losses(shared)) == 24
    assert_close(shared, alone)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-processes", 2], "--coordinator, --num-processes and --process-id are for --distributed runs"),
        (["--distributed", "--process-id", 1], "go together, or none of them is given; missing: --coordinator, --num-"),
        (
            ["--distributed", "--coordinator", "localhost:1", "--num-processes", 2, "--process-id", 2],
            "--process-id must be in [0, --num-processes), got 2 of 2",
        ),
        (
            ["--distributed", "--coordinator", "localhost", "--num-processes", 2, "--process-id", 1],
            "--coordinator must be HOST:PORT, got 'localhost'",
        ),
    ],
)
def test_flags_that_make_no_run_are_refused(tmp_path, capfd, words, message):
    with pytest.raises(SystemExit) as ended:
        main(["tiny", "--workdir", str(tmp_path / "run"), *map(str, words)])
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_fails_on_one_process_fails_on_all(monkeypatch):
    monkeypatch.setattr(processes, "on_any", lambda condition: True)
    with pytest.raises(RuntimeError, match="another process could not start"), processes.together():
        pass
    with pytest.raises(ValueError, match="this one"), processes.together():
        raise ValueError("this one")
