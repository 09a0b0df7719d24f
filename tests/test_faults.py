"""What goes wrong outside of a run: it says so, and what is on the disk stays good."""

import dataclasses
import json
import os
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import text_datasets  # noqa: F401  registers recurrax_test_text
from runs import arrays, assert_same_run, at_batch, checkpoints, command, flags, metrics, saved_state, small
from train import metrics as metrics_module
from train import sharding, spikes
from train import state as state_module
from train.__main__ import main
from train.config import SpikeConfig
from train.data import BadRecordError, DataConfig, Rows, batch_at, evaluation_batches, open_documents
from train.data.local_text import split_paths
from train.loop import Outcome, train
from train.state import abstract_state, init_state
from train.step import make_train_step

pytestmark = pytest.mark.usefixtures("compiled_once")


# ----------------------------------------------------------------------------------------------------- poisoned batches


def poisoned(batch):
    return batch | {"weights": batch["weights"] * np.float32(np.nan)}


def test_poisoned_batch_is_skipped_and_counted(tmp_path, text, monkeypatch, capfd):
    """Where the config asks for it, a poisoned batch is skipped, counted and shown."""
    at_batch(monkeypatch, 6, poisoned)
    at_batch(monkeypatch, 8, poisoned)
    at_batch(monkeypatch, 10, poisoned)
    monkeypatch.setattr(metrics_module, "SKIPPED_IN_A_ROW", 1)  # 8 and 10 are not in a row
    for steps, skipped in ((7, [6]), (12, [8, 10])):  # in two calls: the count is part of the state
        assert train(small(text, steps=steps, on_nonfinite="skip"), str(tmp_path)) == Outcome(steps, interrupted=False)
        out = capfd.readouterr().out
        found = re.findall(r"warning: loss is nan at step (\d+); its batch changed nothing", out)
        assert list(map(int, found)) == skipped
    assert "(3 skipped so far)" in out
    # JSON knows no NaN.
    rows = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["skipped"] for row in rows] == [0] * 5 + [1] * 2 + [2] * 2 + [3] * 3
    assert [row["step"] for row in rows if row["loss"] is None] == [6, 8, 10]
    # The schedule waits for a step that changes something.
    assert rows[5]["learning_rate"] == rows[6]["learning_rate"] != rows[4]["learning_rate"]
    assert (tmp_path / "loss.png").exists()
    for name, (dtype, _, data) in saved_state(tmp_path, 12).items():
        assert np.isfinite(np.frombuffer(data, dtype)).all(), name


def test_skipped_step_changes_nothing(text):
    """A skipped step leaves parameters and moments as they were."""
    config = small(text, on_nonfinite="skip")
    mesh = sharding.make_mesh(config.mesh)
    abstract = abstract_state(config, mesh)
    step = make_train_step(config, abstract, mesh)
    batch = batch_at(Rows(open_documents(config.data, "train"), config.data.sequence_length), config.data, 0, 0)
    state, _ = step(init_state(config, abstract), batch)
    before = jax.device_get((state.params, state.opt_state))
    after, found = step(state, poisoned(batch))
    assert (int(after.step), int(after.skipped), int(found["skipped"])) == (2, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get((after.params, after.opt_state)), before)
    moved, _ = step(after, batch)
    assert (np.asarray(moved.params["embedding"]) != before[0]["embedding"]).any()


def test_without_a_bad_batch_skipping_changes_nothing(tmp_path, text, small_run):
    train(small(text, on_nonfinite="skip"), str(tmp_path))
    rows = metrics(tmp_path)
    assert [row.pop("skipped") for row in rows] == [0] * 12
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in metrics(small_run)], rel=1e-6)


def test_endless_poison_stops_a_skipping_run(tmp_path, text, capfd):
    """Poisoned batches without end stop even a run that skips them."""
    words = flags(text, optimizer__learning_rate=1e37, steps=40, on_nonfinite="skip")
    with pytest.raises(SystemExit) as ended:
        main(["tiny", "--workdir", str(tmp_path), *words])
    assert ended.value.code == 1
    assert ", the last of 11 in a row; the last good checkpoint is that of step" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------------------- bad records


@pytest.fixture
def folder(tmp_path):
    """A folder of texts; a hash of their names deals them to the splits."""
    path = tmp_path / "texts"
    path.mkdir()
    for i in range(30):
        (path / f"{i}.txt").write_text(f"document {i} " * 40)
    return path


def test_vanished_file_is_named(folder, capfd):
    """A file that vanishes is named; the run stops, or leaves the file out, as configured."""
    config = DataConfig(path=str(folder), sequence_length=64, batch_size=4)
    rows = {}
    for choice in ("stop", "skip"):
        rows[choice] = Rows(open_documents(dataclasses.replace(config, on_bad_record=choice), "train"), 64)
    whole = [rows["stop"][i] for i in range(len(rows["stop"]))]
    for name in os.listdir(folder)[::3]:
        (folder / name).unlink()
    fresh = [Rows(open_documents(dataclasses.replace(config, on_bad_record=choice), "train"), 64) for choice in rows]
    assert len(fresh[0]) < len(whole)  # a new run sees what is there
    # Files that are open outlive their names; those of `skip` were never opened.
    got = [rows["skip"][i] for i in range(len(rows["skip"]))]
    assert len(got) == len(whole)
    lost = 0
    for row, want in zip(got, whole, strict=True):
        kept = row["inputs"] == want["inputs"]
        lost += (~kept).sum()
        assert (row["inputs"][~kept] == 256).all()  # padding, which has no weight
        assert (row["weights"] == (row["targets"] != 256)).all()
    assert lost > 1000
    out = capfd.readouterr().out
    assert out.count("warning: record 0 of ") == out.count(".txt cannot be read: ") == out.count("It is left out (") > 3


def test_damaged_record_is_named_with_its_file(tmp_path, capfd):
    """A damaged record is named with its file and its number."""
    config = DataConfig(dataset="recurrax_test_text/train_only", data_dir=str(tmp_path), validation_fraction=0.05)
    whole = [text.tobytes() for text in map(open_documents(config, "train").__getitem__, range(38))]
    (file,) = tmp_path.rglob("*.array_record*")
    data = bytearray(file.read_bytes())
    data[700] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(BadRecordError, match=rf"record 4 of {file} cannot be read: .*hash mismatch.*record skip"):
        Rows(open_documents(config, "train"), 64)
    skipping = dataclasses.replace(config, on_bad_record="skip")
    documents = open_documents(skipping, "train")
    # The first of the second of two files.
    documents._files = types.SimpleNamespace(shard_lengths=[4, 36], filepaths=["first", "second"])
    assert [documents[i].tobytes() for i in range(38)] == [*whole[:4], b"", *whole[5:]]
    rows = Rows(documents, 64)
    assert rows.num_tokens == sum(map(len, whole)) - len(whole[4])
    assert sum(row["weights"].sum() for row in map(rows.__getitem__, range(len(rows)))) == rows.num_tokens
    assert sum(b["weights"].sum() for b in evaluation_batches(documents, 64, 4)) == rows.num_tokens
    assert capfd.readouterr().out.count("warning: record 0 of second cannot be read") == 1


def test_record_file_cut_short_in_use_is_named(tmp_path, capfd):
    config = DataConfig(dataset="recurrax_test_text/train_only", data_dir=str(tmp_path))
    configs = {choice: dataclasses.replace(config, on_bad_record=choice) for choice in ("stop", "skip")}
    documents = {choice: open_documents(config, "train") for choice, config in configs.items()}
    (file,) = tmp_path.rglob("*.array_record*")
    for opened in documents.values():
        opened.lengths()  # its reader has the file open, and does not look at its length again
        opened._cache.clear()
    os.truncate(file, 100)
    with pytest.raises(BadRecordError, match=rf"record 37 of {file} cannot be read: it has no text; was the file cut"):
        documents["stop"][37]
    assert documents["skip"][37].tobytes() == b""
    assert f"warning: record 37 of {file} cannot be read" in capfd.readouterr().out


@pytest.mark.parametrize(("split", "step"), [("train", 2), ("validation", 7)])
def test_text_cut_short_stops_the_run_and_saves(tmp_path, text, small_run, monkeypatch, capfd, split, step):
    """Once the text is back, the same command goes on as if nothing had been."""
    folder = shutil.copytree(text, tmp_path / "text")
    whole = {folder / name: (text / name).read_bytes() for name in split_paths(os.listdir(folder), 0.05)[split]}

    def cut(batch):
        for path in whole:
            os.truncate(path, 5)

    words = ["tiny", "--workdir", str(tmp_path / "run"), *flags(folder)]
    with monkeypatch.context() as patch:
        at_batch(patch, step, cut)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert f"error: record 0 of {folder}/" in error
    assert re.search(r"changed while in use: \d+ bytes before, 5 now", error)
    saved = int(re.search(rf"step (\d+) is saved in {tmp_path}/run/checkpoints$", error)[1])
    assert checkpoints(tmp_path / "run")[-1] == saved
    if split == "validation":
        assert saved == 10  # where it was to be evaluated
    for path, content in whole.items():
        path.write_bytes(content)
    assert main(words) == 0
    assert_same_run(tmp_path / "run", small_run)


# --------------------------------------------------------------------------------------------- disk, clock, bad choices


NO_ROOM = """
import resource, sys
from train.__main__ import main
# No file grows beyond this: the system call fails, as on a full disk or over a quota.
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
sys.exit(main(sys.argv[1:]))
"""


def test_full_disk_costs_no_checkpoint(tmp_path, text, small_run):
    """A disk that fills up stops the run and costs no checkpoint."""
    train(small(text, steps=5), str(tmp_path))
    uncached = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # or programs would lie there cut short
    done = command("-c", NO_ROOM, "tiny", "--workdir", tmp_path, *flags(text), env=uncached)
    assert done.returncode == 1
    error = f"error: the checkpoint of step 8 could not be written to {tmp_path}/checkpoints: "
    assert re.search(re.escape(error) + r".*Complete checkpoints there: 4, 5\n", done.stderr, re.DOTALL)
    assert checkpoints(tmp_path) == [4, 5]
    train(small(text), str(tmp_path))
    assert_same_run(tmp_path, small_run)


JUMPING = """
import itertools, sys, time
real, calls = time.time, itertools.count()
time.time = lambda: real() + int(sys.argv[1]) * (-1) ** next(calls)  # to and fro at every look
from train.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("seconds", [60, 86_400])
def test_clock_jump_costs_at_most_a_save(tmp_path, text, small_run, seconds):
    """Speeds come from a clock that never jumps. Orbax waits by one that does: minutes look like a save that hangs."""
    done = command("-c", JUMPING, seconds, "tiny", "--workdir", tmp_path, *flags(text))
    if seconds == 60:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 0 or " could not be written to " in done.stderr
    train(small(text), str(tmp_path))
    assert_same_run(tmp_path, small_run)


# ------------------------------------------------------------------------------------------------------- loss spikes


def odd(batch):
    """Its loss is a sum instead of a mean: that of what no text has, less that of spaces."""
    even = np.arange(batch["targets"].shape[1]) % 2 == 0
    targets = np.where(even, 287, ord(" ")).astype(np.int32)
    weights = np.where(even, 1, -1).astype(np.float32)
    return batch | {
        name: np.broadcast_to(v, batch[name].shape) for name, v in (("targets", targets), ("weights", weights))
    }


@pytest.fixture
def short_window(monkeypatch):
    monkeypatch.setattr(state_module, "WINDOW", 4)


SPIKES = {"spike__sigmas": 8.0, "spike__rewind": 5}


@pytest.mark.parametrize("rewind", [2, 5])  # to step 7 or 4: to the checkpoint of step 4, and not to that of step 8
def test_spike_rolls_back_past_its_batches(tmp_path, text, short_window, monkeypatch, capfd, rewind):
    """A loss spike takes the run back to a checkpoint and past the batches that led to the spike."""
    at_batch(monkeypatch, 9, odd)  # batch 8: step 9
    config = small(text, **SPIKES | {"spike__rewind": rewind})
    for steps in (3, 12):  # in two calls: what is usual is part of the state
        assert train(dataclasses.replace(config, steps=steps), str(tmp_path)) == Outcome(steps, interrupted=False)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "spike" in line and line.startswith("step")]
    assert re.fullmatch(r"step +9  the loss \d+\.\d+ is a spike; back to step 4, on with batch 9", line)
    numbers = [0, 1, 2, 3, *range(9, 17)]
    assert [(row["step"], row["batch"]) for row in metrics(tmp_path)] == list(zip(range(1, 13), numbers, strict=True))
    assert checkpoints(tmp_path) == [4, 8, 12]
    # By hand, over the batches that are left.
    mesh = sharding.make_mesh(config.mesh)
    abstract = abstract_state(config, mesh)
    step, state = make_train_step(config, abstract, mesh), init_state(config, abstract)
    rows = Rows(open_documents(config.data, "train"), config.data.sequence_length)
    for number in numbers:
        state, _ = step(state, batch_at(rows, config.data, config.seed, number))
    saved = saved_state(tmp_path)
    for name, value in arrays(state.params).items():
        assert saved[f"params/{name}"][2] == value.tobytes(), name
    # A later call knows where it is.
    train(dataclasses.replace(config, steps=14), str(tmp_path))
    assert [row["batch"] for row in metrics(tmp_path)] == [*numbers, 17, 18]


def test_spike_before_any_checkpoint_restarts_behind_it(tmp_path, text, short_window, monkeypatch, capfd):
    """A spike before the first checkpoint restarts the run behind the spike."""
    at_batch(monkeypatch, 6, odd)
    train(small(text, **SPIKES | {"spike__rewind": 100}), str(tmp_path))
    assert "back to step 0, on with batch 6" in capfd.readouterr().out
    assert [row["batch"] for row in metrics(tmp_path)] == list(range(6, 18))


def test_what_a_spike_is():
    recent = jnp.full(4, -1.0)
    verdicts = []
    for loss in (1.0, 9.0, 1.1, 0.9, 1.0, 30.0, np.nan, np.inf, 30.0, 1.0, 1.0, 1.0, 1.5):
        spike, recent = spikes.seen(jnp.float32(loss), recent, 3.0)
        verdicts.append(bool(spike))
    # The second comes before there are four; the spikes themselves are no part of what is usual.
    assert [i for i, verdict in enumerate(verdicts) if verdict] == [5, 8, 12]
    np.testing.assert_allclose(recent, [1.0] * 4)


def test_spikes_without_end_stop_the_run(tmp_path, text, short_window, monkeypatch):
    for number in range(6, 60, 5):
        at_batch(monkeypatch, number, odd)
    with pytest.raises(FloatingPointError, match=r"is a spike; the run has gone back 2 times already"):
        train(small(text, **SPIKES, spike__limit=2), str(tmp_path))
    assert all(np.isfinite(row["loss"]) for row in metrics(tmp_path))


def test_choices():
    with pytest.raises(ValueError, match="on_bad_record='ignore': choose one of stop, skip"):
        DataConfig(on_bad_record="ignore")
    for name, value in (("sigmas", 0.0), ("rewind", 0), ("limit", 0)):
        with pytest.raises(ValueError, match=f"spike.{name} must be .*, got {value}"):
            SpikeConfig(**{name: value})
    with pytest.raises(ValueError, match="on_nonfinite='ignore': choose one of stop, skip"):
        small("text", on_nonfinite="ignore")
