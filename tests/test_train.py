"""What a run leaves behind, shows on the way and refuses to save; schedule, decay and clipping."""

import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import jax
import matplotlib.image
import numpy as np
import pytest

from recurrax.models import LanguageModel
from runs import ROOT, assert_same_run, at_batch, checkpoints, flags, metrics, saved_state, small
from train import loop, presets, session, sharding
from train.__main__ import main
from train.config_json import from_json, to_json
from train.evaluate import Evaluation
from train.loop import Outcome, train
from train.metrics import plot_loss
from train.objectives import NextToken
from train.state import abstract_state

pytestmark = pytest.mark.usefixtures("compiled_once")


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("preset", [p for p in presets.PRESETS.values() if not presets.takes_directory(p)])
def test_config_comes_back_from_json(preset):
    config = preset()
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_config_of_another_version_is_refused():
    data = to_json(presets.tiny())
    data["model"]["depth"] = 3
    with pytest.raises(ValueError, match=r"written by another version.*LanguageModelConfig.*'depth'"):
        from_json(data)
    data = to_json(presets.tiny())
    data["model"]["pattern"][0]["type"] = "recurrax.mixers.rglru.Other"
    with pytest.raises(ValueError, match=r"written by another version.*rglru\.Other"):
        from_json(data)


def test_files_of_a_run(text, small_run):
    assert sorted(os.listdir(small_run)) == [
        ".lock",
        "checkpoints",
        "config.json",
        "data.json",
        "loss.png",
        "metrics.jsonl",
        "versions.json",
    ]
    assert from_json(json.loads((small_run / "config.json").read_text())) == small(text)

    found = json.loads((small_run / "versions.json").read_text())
    assert found["packages"]["jax"] == jax.__version__
    assert {"flax", "optax", "orbax-checkpoint", "grain", "numpy"} <= found["packages"].keys()
    assert found["devices"] == {"platform": "cpu", "kind": "cpu", "count": 8}
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["git"] is None or re.fullmatch("[0-9a-f]{40}", found["git"]["commit"])

    rows = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row in rows:
        assert {"step", "loss", "grad_norm", "learning_rate", "tokens_per_second"} <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        assert ("validation_loss" in row) == (row["step"] in (5, 10, 12))
    schedule = small(text).optimizer.rates()
    assert [row["learning_rate"] for row in rows] == pytest.approx([float(schedule(n)) for n in range(12)])

    height, width, _ = matplotlib.image.imread(small_run / "loss.png").shape
    assert 300 < height < width < 2000


def test_plot_takes_any_name_as_title(tmp_path):
    """Two dollar signs make a formula of what is between them, and an error of most names."""
    plot_loss([{"step": 1, "loss": 1.0}], tmp_path / "loss.png", r"run $\tmp$", NextToken())
    assert (tmp_path / "loss.png").stat().st_size


def scripted_losses(monkeypatch, losses):
    """Evaluations take no time and give these losses, one after the other."""
    values = iter(losses)
    monkeypatch.setattr(session, "make_evaluator", lambda *_, **__: lambda *_: Evaluation(next(values), 1000))


def test_losses_are_means_in_nats_per_byte(tmp_path, monkeypatch):
    """The first loss is that of the initial parameters, worked out with NumPy."""
    (tmp_path / "words").mkdir()
    for number in range(40):  # so short that every row has targets which are no bytes
        (tmp_path / "words" / str(number)).write_text(f"document {number}")
    config = small(tmp_path / "words", steps=1)
    scripted_losses(monkeypatch, [1.0])
    train(config, str(tmp_path / "run"))

    rows = session.open_data(config.data, print)[0]
    batch = next(session.train_batches(rows, config.data, config.seed))
    assert (batch["weights"].mean(1) < 1).all()
    params = session.init_state(config, abstract_state(config, sharding.make_mesh(config.mesh))).params
    model = LanguageModel(config.model)
    logits, _ = jax.jit(model.apply)({"params": params}, batch["inputs"], reset=batch["reset"])
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(nats[batch["weights"] > 0].mean(), rel=1e-5)


@pytest.mark.parametrize(("keep_best", "kept"), [(True, [4, 10, 12]), (False, [10, 12])])
def test_the_newest_checkpoints_and_the_best_one_stay(tmp_path, text, monkeypatch, keep_best, kept):
    scripted_losses(monkeypatch, [3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    train(
        small(text, evaluation__every=2, checkpoint__every=2, checkpoint__keep=2, checkpoint__keep_best=keep_best),
        str(tmp_path),
    )
    assert checkpoints(tmp_path) == kept
    assert [row["validation_loss"] for row in metrics(tmp_path)[1::2]] == [3.0, 1.0, 2.0, 4.0, 5.0, 6.0]


def test_rows_are_written_as_often_as_asked(tmp_path, text, monkeypatch):
    scripted_losses(monkeypatch, [3.0, 2.0])
    train(small(text, log__every=5, evaluation__every=7, checkpoint__every=100), str(tmp_path))
    assert [row["step"] for row in metrics(tmp_path)] == [5, 7, 10, 12]
    assert checkpoints(tmp_path) == [12]


# ---------------------------------------------------------------------------------------------------- on the terminal


def test_plain_lines_where_there_is_no_terminal(tmp_path, text, monkeypatch, capfd):
    scripted_losses(monkeypatch, [2.0, 1.5])
    train(small(text, steps=6), str(tmp_path))
    out, err = capfd.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert re.fullmatch(r"7,344 parameters on one device \(cpu\); [\d,]+ bytes of text", lines[0])
    numbers = r"loss \d\.\d{4} \(\d\.\d{3} bits/byte\), [\d,]+ tokens/s  \d+:\d\d left"
    steps = [line for line in lines if re.fullmatch(rf"step      [1-6]/6  {numbers}", line)]
    assert len(steps) == 6
    assert "step      5  held out 2.0000 nats, 2.8854 bits per byte" in lines
    assert len(lines) == 1 + 6 + 2


def test_a_bar_where_there_is_one(tmp_path, text):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    words = ["tiny", "--workdir", tmp_path / "run", *flags(text)]
    child = subprocess.Popen(
        [sys.executable, "-m", "train", *map(str, words)],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert child.wait() == 0
    shown = shown.decode()
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown)
    assert re.search(r"step 12/12 .*━.*loss \d\.\d{4} \(\d\.\d{3} bits/byte\), [\d,]+ tokens/s", plain)
    assert "step     10  held out" in plain
    assert not re.search(r"step +\d+/12  loss", plain)  # no plain lines beside it


def test_describe_prints_every_array_and_trains_nothing(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setattr(loop, "train", None)
    meshes = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    assert main(["tiny", "--workdir", str(tmp_path / "run"), *flags(text), *meshes, "--describe"]) == 0
    assert not (tmp_path / "run").exists()
    lines = capsys.readouterr().out.splitlines()
    config = small(text, mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    abstract = abstract_state(config, sharding.make_mesh(config.mesh))
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    shown = {line.split("  ")[0].strip(): line for line in lines}
    for path, leaf in leaves:
        line = shown[jax.tree_util.keystr(path, simple=True, separator="/")]
        assert "(" + ", ".join(map(str, leaf.sharding.spec)) + ")" in line
        assert ("x".join(map(str, leaf.shape)) or "scalar") in line
        assert str(leaf.dtype) in line
    embedding = shown["params/embedding"]
    assert "288x16" in embedding
    assert "(tensor, fsdp)" in embedding
    assert embedding.endswith("18,432")
    assert any(line.startswith("7,344 parameters, 29,376 bytes") for line in lines)
    # Two moments of 4 bytes each; counters (steps, batches, skipped steps, Adam's, the schedule's); losses; a key of 8.
    numbers, _, *groups = lines[lines.index("", lines.index("") + 1) - 1 :]
    count, total, _ = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+\d", numbers))
    assert (count, total) == (2 * 7344 + 5 + 128 + 1, 2 * 7344 * 4 + (5 + 128) * 4 + 8)
    assert groups[0] == "parameters  learning rate  weight decay  roles"
    assert sum(int(line.split()[0].replace(",", "")) for line in groups[1:]) == 7344


def test_profile_writes_a_trace(tmp_path, text, monkeypatch, capfd):
    scripted_losses(monkeypatch, [1.0] * 9)
    train(small(text), str(tmp_path), profile="11:99")  # a run that ends before LAST ends the trace, too
    assert f"Traced steps 11 to 12 into {tmp_path}/profile" in capfd.readouterr().out
    traces = [path for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert any(path.name.endswith(".xplane.pb") and path.stat().st_size > 1000 for path in traces)


def test_profile_of_steps_that_are_done_says_so(tmp_path, text, monkeypatch, capfd):
    scripted_losses(monkeypatch, [1.0] * 9)
    train(small(text, steps=6), str(tmp_path))
    train(small(text), str(tmp_path), profile="2:3")
    assert "Nothing was traced: steps 2 to 3 are not among those of this call" in capfd.readouterr().out
    assert not (tmp_path / "profile").exists()


# ----------------------------------------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize(
    ("step", "last", "stopped"),
    [(3, None, False), (12, 8, False), (9, 8, True)],
    ids=["no checkpoint", "at a checkpoint", "stopped in it"],
)
def test_nonfinite_loss_is_never_saved(tmp_path, text, monkeypatch, small_run, step, last, stopped):
    """No checkpoint is saved after a loss that is not finite."""

    def plant(batch):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch | {"weights": batch["weights"] * np.float32(np.nan)}

    there = "there is no checkpoint yet" if last is None else f"the last good checkpoint is that of step {last}"
    with monkeypatch.context() as patch:
        scripted_losses(patch, [row["validation_loss"] for row in metrics(small_run) if "validation_loss" in row])
        at_batch(patch, step, plant)
        with pytest.raises(FloatingPointError, match=f"loss is nan at step {step}; {there}"):
            train(small(text), str(tmp_path))
    assert checkpoints(tmp_path) == [n for n in (4, 8) if last and n <= last]
    for saved in checkpoints(tmp_path):
        for name, (dtype, _, data) in saved_state(tmp_path, saved).items():
            assert np.isfinite(np.frombuffer(data, dtype)).all(), (saved, name)
    assert [row["step"] for row in metrics(tmp_path)] == list(range(1, step))
    assert not (tmp_path / "loss.png").exists()
    # What was saved is good: without the plant the run ends as it would have.
    assert train(small(text), str(tmp_path)) == Outcome(12, interrupted=False)
    assert_same_run(tmp_path, small_run)


def test_divergence_on_the_command_line(tmp_path, text, capfd):
    words = ["tiny", "--workdir", str(tmp_path), *flags(text, optimizer__learning_rate=1e37)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    err = capfd.readouterr().err
    assert re.fullmatch(r"error: (loss|grad_norm) is (nan|inf) at step \d+; .*\. Nothing was saved since\. .*\n", err)
    for saved in checkpoints(tmp_path):
        for name, (dtype, _, data) in saved_state(tmp_path, saved).items():
            assert np.isfinite(np.frombuffer(data, dtype)).all(), (saved, name)


def test_grad_norm_is_that_before_clipping(small_run):
    assert metrics(small_run)[0]["grad_norm"] > 1.2 * presets.tiny().optimizer.clip_norm
