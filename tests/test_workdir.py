"""The working directory: one run at a time, JSON files that are never half there, honest differences."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import jax
import pytest

from eval.__main__ import main as eval_main
from train import workdir
from train.__main__ import main as train_main
from train.data import DataConfig, open_documents
from train.data.tfds_text import find_builder
from train.workdir import Workdir, differences, versions, write_json_atomically

HOLDER = """
import sys, time
from train.workdir import Workdir
with Workdir(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_workdir_lock_ends_with_its_process(tmp_path, holder):
    """A second run is refused, and SIGKILL frees the lock."""
    run = Workdir(tmp_path / "run")
    with pytest.raises(BlockingIOError, match=rf"process {holder.pid} is running in {run.path}"), run:
        pass
    assert run.config_path == run.path / "config.json"  # reading needs no lock
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run:
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_lock_ends_with_the_block(tmp_path):
    with Workdir(tmp_path / "a" / "run") as run:
        assert run.path.is_dir()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} "), Workdir(run.path):
            pass
    with Workdir(run.path):
        pass


def test_names(tmp_path):
    run = Workdir(tmp_path / "run")
    assert not run.path.exists()  # looking creates nothing
    names = [run.config_path, run.versions_path, run.metrics_path, run.checkpoints_path, run.loss_png_path]
    assert names == [
        run.path / name for name in ("config.json", "versions.json", "metrics.jsonl", "checkpoints", "loss.png")
    ]


def test_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Workdir("run")
    monkeypatch.chdir("/")
    assert run.path == tmp_path / "run"


def test_tilde_in_options_is_the_home_directory(tmp_path, monkeypatch):
    """`--workdir=~/run` comes as it is: shells expand a `~` only where a word begins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    assert Workdir("~/run/").path == tmp_path / "run"
    assert open_documents(DataConfig(path="~/text.txt"), "train").name == f"{tmp_path}/text.txt:train"
    assert str(find_builder("python_stdlib", "~/data")._data_dir_root) == f"{tmp_path}/data"
    assert os.listdir(tmp_path) == ["text.txt"]


PATH_OPTIONS = {
    "train --workdir": (train_main, ["tiny", "--workdir"]),
    "train --data.path": (train_main, ["tiny", "--mesh.data=1", "--workdir=run", "--data.path"]),
    "train --data.data_dir": (train_main, ["tiny", "--mesh.data=1", "--workdir=run", "--data.data_dir"]),
    "perplexity --workdir": (eval_main, ["perplexity", "--workdir"]),
    "perplexity --pretrained": (eval_main, ["perplexity", "--pretrained"]),
    "generate --workdir": (eval_main, ["generate", "--workdir"]),
    "generate --pretrained": (eval_main, ["generate", "--pretrained"]),
    "accuracy --output": (eval_main, ["accuracy", "--output"]),
    "bench --workdir": (eval_main, ["bench", "--workdir"]),
    "compare --workdir": (eval_main, ["compare", "--mixers", "GLA", "--workdir"]),
    "compare --output": (eval_main, ["compare", "--mixers", "GLA", "--workdir=run", "--output"]),
    "scaling --output": (eval_main, ["scaling", "--output"]),
    "tasks --workdir": (eval_main, ["tasks", "--workdir"]),
    "tasks --output": (eval_main, ["tasks", "--workdir=run", "--output"]),
}


@pytest.mark.parametrize(("main", "words"), PATH_OPTIONS.values(), ids=PATH_OPTIONS)
def test_path_options_are_all_read_alike(tmp_path, monkeypatch, capfd, main, words):
    """One function makes a path of each; what it refuses is refused before anything is done."""
    monkeypatch.chdir(tmp_path)
    for value, message in (
        ("", "is empty; give a path"),
        ("~nosuchuser/x", "nosuchuser/x'"),
        ("file:///x", "is a URL"),
    ):
        if value.startswith("file:") and words[-1] == "--data.data_dir":
            continue  # TFDS has URLs of its own
        with pytest.raises(SystemExit) as ended:
            sys.exit(main([*words[:-1], f"{words[-1]}={value}"]))
        assert ended.value.code == 2
        assert re.search(rf"^error: .*{words[-1].removeprefix('--')}.*{message}", capfd.readouterr().err, re.MULTILINE)
    assert os.listdir(tmp_path) == []


def test_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=rf"{tmp_path}/run is a file"):
        Workdir(tmp_path / "run")


def test_json_is_never_half_there(tmp_path):
    path = tmp_path / "config.json"
    values = [{"text": letter * 300_000} for letter in "ab"]
    write_json_atomically(path, values[0])
    done = threading.Event()

    def write():
        for number in range(40):
            write_json_atomically(path, values[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        assert json.loads(path.read_text()) in values
        reads += 1
    writer.join()
    assert reads > 3
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_write_leaves_the_old_json(tmp_path, monkeypatch, call):
    path = tmp_path / "config.json"
    write_json_atomically(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir.os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_json_atomically(path, {"new": 2})
    monkeypatch.undo()
    with pytest.raises(TypeError):
        write_json_atomically(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["config.json"]


def test_versions_is_json_and_names_what_ran():
    found = versions()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"]["orbax-checkpoint"]
    assert found["devices"] == {"platform": "cpu", "kind": "cpu", "count": jax.device_count()}
    assert found["process_count"] == 1


def test_git_state(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert workdir._git_state(tmp_path) is None  # no repository
    git("init")
    assert workdir._git_state(tmp_path) is None  # no commit
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert workdir._git_state(tmp_path) == clean
    (tmp_path / "file").write_text("2")
    assert workdir._git_state(tmp_path) == {**clean, "dirty": True}
    (tmp_path / "copy").mkdir()
    assert workdir._git_state(tmp_path / "copy") is None  # a copy of the code inside a foreign repository


def test_git_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workdir._git_state(tmp_path) is None


def test_differences():
    old = {"model": {"dim": 128, "mixer": "gla", "pattern": [1, [2]], "bias": True, "decay": 0}, "seed": 0, "old": None}
    new = {
        "model": {"dim": 256, "mixer": "lru", "pattern": (1.0, (2,)), "bias": 1, "decay": 0.0},
        "seed": 0,
        "new": {"a": 1},
    }
    assert differences(old, new) == [
        "model.bias: true in the workdir, 1 now",
        "model.dim: 128 in the workdir, 256 now",
        'model.mixer: "gla" in the workdir, "lru" now',
        'new: absent in the workdir, {"a": 1} now',
        "old: null in the workdir, absent now",
    ]


@pytest.mark.parametrize("data", [{}, {"a": {"b": [1, {"c": None}]}}, {"lr": float("nan")}])
def test_no_differences(data):
    assert differences(data, data) == []
