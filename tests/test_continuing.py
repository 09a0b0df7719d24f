"""What a second call finds in the directory of a run: another text, and files that are damaged."""

import json
import os
import shutil

import pytest

from eval.__main__ import main as eval_main
from runs import assert_same_run, checkpoints, flags, metrics, small, snapshot
from train.__main__ import main as train_main
from train.config import load_config
from train.loop import Outcome, train

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def run(tmp_path, text, small_run):
    """A copy of the small run in one place, and the text that it is to read in another."""
    shutil.copytree(small_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "text")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run", shutil.copytree(text, tmp_path / "text")


def test_run_of_the_former_optimizer_resumes(run, small_run, capfd):
    """A config.json from before optimizers and objectives were values is read; nothing is reported as changed."""
    path, folder = run
    config = json.loads((path / "config.json").read_text())
    optimizer = config["optimizer"]
    schedule = optimizer.pop("schedule")
    assert (schedule.pop("type"), optimizer.pop("groups")) == ("train.optimizers.Cosine", [])
    config["optimizer"] = {**optimizer, **schedule, "type": "train.config.OptimizerConfig"}
    assert config.pop("objective")["type"] == "train.objectives.NextToken"
    (path / "config.json").write_text(json.dumps(config))
    assert load_config(path / "config.json").optimizer == small(folder).optimizer
    capfd.readouterr()
    assert train(small(folder), str(path)) == Outcome(12, interrupted=False)
    assert "Changed" not in capfd.readouterr().out
    assert_same_run(path, small_run)


def appended(folder):
    with next(folder.iterdir()).open("a") as file:
        file.write("one more line\n")


def one_byte_changed(folder):
    path = next(folder.iterdir())
    path.write_bytes(b"X" + path.read_bytes()[1:])


CHANGES = {
    "appended": (appended, "train.bytes: 2"),
    "one byte": (one_byte_changed, "train.sha256: "),
    "gained": (lambda folder: (folder / "new.txt").write_text("text"), "files: "),
    "lost": (lambda folder: next(folder.iterdir()).unlink(), "files: "),
}


@pytest.mark.parametrize(("change", "part"), CHANGES.values(), ids=CHANGES)
def test_text_that_changed_between_calls_is_refused(run, capfd, change, part):
    """Its rows would be other rows: what is promised of the same command would not hold."""
    path, folder = run
    change(folder)
    before = snapshot(path)
    with pytest.raises(SystemExit) as ended:
        train_main(["tiny", "--workdir", str(path), *flags(folder, steps=13)])
    assert ended.value.code == 2
    first, *listed, last = capfd.readouterr().err.splitlines()
    assert first == f"error: the text has changed since the run in {path} began:"
    assert any(line.strip().startswith(part) or part in line for line in listed)
    assert all(" in the workdir, " in line for line in listed)
    assert f"Without {path}/data.json the run goes on" in last
    assert snapshot(path) == before


def test_text_goes_on_where_that_is_asked_for(run, capfd):
    path, folder = run
    appended(folder)
    (path / "data.json").unlink()
    assert train(small(folder, steps=13), str(path)) == Outcome(13, interrupted=False)
    for moved in ("same", "other"):
        capfd.readouterr()
        folder = folder.rename(folder.parent / moved)
        if moved == "other":  # by its name it is another text
            appended(folder)
        assert train(small(folder, steps=14), str(path)) == Outcome(14, interrupted=False)
        out = capfd.readouterr().out
        assert "Changed since this run was started: data.path: " in out
        assert ("Changed since this run was started: train.bytes: " in out) == (moved == "other")


def test_text_of_the_same_bytes_goes_on(run, small_run):
    """A copy has other times, and may be in another place."""
    path, folder = run
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert train(small(folder), str(path)) == Outcome(12, interrupted=False)
    assert_same_run(path, small_run)


DAMAGED = {"empty": "", "cut": '{"steps": 12, "mod', "list": "[1, 2]", "words": "\udcff", "number": "17"}


@pytest.mark.parametrize("name", ["config.json", "data.json"])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_of_a_run_is_named(run, capfd, name, content):
    path, folder = run
    (path / name).write_bytes(content.encode(errors="surrogateescape"))
    before = snapshot(path)
    calls = [(train_main, ["tiny", *flags(folder, steps=13)])]
    if name == "config.json":
        calls += [(eval_main, ["perplexity"]), (eval_main, ["generate"])]
    for main, words in calls:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--workdir", str(path)])
        assert ended.value.code == 2
        assert capfd.readouterr().err.startswith(f"error: {path}/{name} is damaged: ")
    assert snapshot(path) == before


@pytest.mark.parametrize(
    "content",
    ["{}", '{"type": 3}', '{"type": "os.mkdir", "path": "made"}', '{"type": "train.data.config.DataConfig"}'],
)
def test_json_that_is_no_config_is_refused(run, monkeypatch, capfd, content):
    """What it names is called only if it is a config."""
    path, folder = run
    monkeypatch.chdir(path.parent)
    (path / "config.json").write_text(content)
    for main, words in ((train_main, ["tiny", *flags(folder)]), (eval_main, ["perplexity"])):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--workdir", str(path)])
        assert ended.value.code == 2
        error = capfd.readouterr().err
        assert "another version" in error or "another model" in error or "is not the config of a run" in error
    assert not (path.parent / "made").exists()


def test_metrics_cut_by_a_kill_go_on(run, small_run):
    path, folder = run
    file = path / "metrics.jsonl"
    os.truncate(file, file.stat().st_size - 9)
    rows = metrics(small_run)
    train(small(folder, steps=13), str(path))
    assert metrics(path)[:11] == rows[:11]
    assert [row["step"] for row in metrics(path)] == [*range(1, 12), 13]


@pytest.mark.parametrize("line", [b"", b"\0\0\0", b"17", b'{"loss": 3.0}', b'{"step": 3.5}', b'{"step": 3, "lo'])
def test_metrics_with_a_damaged_line_are_named(run, capfd, line):
    path, folder = run
    lines = (path / "metrics.jsonl").read_bytes().splitlines()
    (path / "metrics.jsonl").write_bytes(b"\n".join([*lines[:4], line, *lines[5:], b""]))
    with pytest.raises(SystemExit) as ended:
        train_main(["tiny", "--workdir", str(path), *flags(folder, steps=13)])
    assert ended.value.code == 2
    assert f"line 5 of {path}/metrics.jsonl is damaged" in capfd.readouterr().err
    assert checkpoints(path)[-1] == 12
