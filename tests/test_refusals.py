"""What the applications refuse: with a message that helps, without a traceback, and without touching anything."""

import json
import os
import re
import shutil
import sys
import time

import jax
import pytest

from eval.__main__ import main as eval_main
from runs import assert_same_run, at_batch, command, flags, small, snapshot
from train import loop
from train.__main__ import main as train_main

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def refused(capfd, monkeypatch):
    """refused(main, arguments, part, ...): it ends with code 2 and a message with these parts, which it returns."""
    monkeypatch.setenv("COLUMNS", "250")

    def check(main, arguments, *parts):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert ended.value.code == 2
        assert "Traceback" not in captured.err
        message = re.sub(r"[│╭╮╰╯─\s]+", " ", captured.err)
        for part in parts:
            assert part in message, f"{part!r} is not in:\n{captured.err}"
        return captured.err

    return check


def test_unknown_presets_and_commands(refused, tmp_path):
    path = tmp_path / "run"
    refused(train_main, ["tinny", "--workdir", path], "error: unknown preset 'tinny'. Did you mean 'tiny'?")
    refused(
        train_main, ["xyzzy", "--workdir", path], "unknown preset 'xyzzy'. There are: default, tiny, digits, finetune"
    )
    refused(eval_main, ["perplexty"], "unknown command 'perplexty'. Did you mean 'perplexity'?", "generate, harness")
    assert not path.exists()


REFUSED = {
    "unknown setting": (["--model.dmi", 64], ["Unrecognized", "--model.dmi", "--model.dim"]),
    "unknown group": (["--modle.dim", 64], ["Unrecognized", "--modle.dim", "--model.dim"]),
    "not a number": (["--model.dim", "wide"], ["--model.dim", "wide", "int"]),
    "out of range": (["--optimizer.learning_rate", -1], ["optimizer.learning_rate must be positive, got -1"]),
    "no steps": (["--steps", 0], ["steps must be at least 1, got 0"]),
    "seed": (["--seed", -1], ["seed must be in [0, 2**32), got -1"]),
    "long seed": (["--seed", "9" * 20], ["seed must be in [0, 2**32), got " + "9" * 20]),
    "huge steps": (["--steps", 2**31], ["steps must be less than 2**31, got 2147483648"]),
    "huge schedule": (
        ["--optimizer.schedule.decay_steps", 2**31],
        ["decay_steps must be in [0, 2**31), got 2147483"],
    ),
    "huge model": (["--model.dim", 10**20], ["model.dim must be less than 2**31, got 1" + "0" * 20]),
    "huge rows": (
        ["--data.sequence_length", 10**20],
        ["sequence_length=1" + "0" * 20, "expected a positive integer below"],
    ),
    "huge evaluation": (
        ["--evaluation.batch_size", 2**31],
        ["evaluation.batch_size must be less than 2**31, got 21474"],
    ),
    "no rows": (["--data.batch_size", 0], ["batch_size=0: expected a positive integer"]),
    "no tokens": (["--data.sequence_length", 0], ["sequence_length=0: expected a positive integer"]),
    "infinite rate": (["--optimizer.learning_rate", "inf"], ["optimizer.learning_rate must be in [0, inf), got inf"]),
    "rate no number": (["--optimizer.learning_rate", "nan"], ["optimizer.learning_rate must be positive, got nan"]),
    "decay no number": (["--optimizer.weight_decay", "nan"], ["optimizer.weight_decay must be in [0, inf), got nan"]),
    "negative decay": (["--optimizer.weight_decay", -1], ["optimizer.weight_decay must be in [0, inf), got -1"]),
    "still moment": (["--optimizer.beta2", 1], ["optimizer.beta2 must be in [0, 1), got 1"]),
    "empty path": (["--data.path", ""], ["data.path is empty"]),
    "URL as path": (["--data.path", "s3://bucket/text"], ["data.path='s3://bucket/text' is a URL"]),
    "choice": (["--model.dtype", "bfloat15"], ["unknown dtype 'bfloat15'", "did you mean 'bfloat16'?", "float32"]),
    "remat": (["--model.remat", "dots"], ["unknown remat 'dots'", "dots_saveable", "nothing_saveable"]),
    "heads": (["--model.dim", 33], ["33 is not divisible by num_heads 2"]),
    "slices": (["--optimizer.accumulate", 3], ["data.batch_size 8 is not divisible by optimizer.accumulate 3"]),
    "vocabulary": (["--model.vocab_size", 99], ["model.vocab_size 99 is less than the 288 of the byte tokens"]),
    "time": (["--mesh.time", 3], ["data.sequence_length 32 is not divisible by mesh.time 3"]),
    "rows": (
        ["--mesh.data", 8, "--data.batch_size", 12],
        ["12 is not divisible by mesh.data * mesh.fsdp = 8 * 1 = 8", "data.batch_size"],
    ),
    "rows of slices": (["--mesh.data", 8, "--optimizer.accumulate", 2], ["optimizer.accumulate 4 is not divisible"]),
    "lanes": (["--mesh.data", 8, "--evaluation.batch_size", 4], ["evaluation.batch_size 4 is not divisible"]),
    "devices": (
        ["--mesh.data", 3, "--mesh.fsdp", 5],
        ["data=3, fsdp=5, tensor=1, time=1 needs 15 devices; there are 8 (cpu)"],
    ),
    "no such parameter": (["--mesh.rules", "in_gat$=fsdp"], ["the rule 'in_gat$' matches no parameter"]),
    "unknown axis": (["--mesh.rules", "in_gate$=fdsp"], ["'in_gate$=fdsp' is not PATTERN=AXIS,AXIS", "data, fsdp"]),
    "no axes": (["--mesh.rules", "in_gate"], ["'in_gate' is not PATTERN=AXIS,AXIS"]),
    "no pattern": (["--mesh.rules", "in_(=fsdp"], ["'in_(' is no regular expression", "unterminated subpattern"]),
    "axes": (["--mesh.rules", "bias$=-,-,-,fsdp"], ["too few dimensions for the rule 'bias$'"]),
    "not divisible by axis": (
        ["--mesh.rules", "in_gate$=fsdp", "--mesh.fsdp", 8, "--model.dim", 20],
        ["is not divisible by mesh.fsdp = 8", "in_gate has shape (20, "],
    ),
    "no text file": (["--data.path", "/nowhere/text.txt"], ["no file or folder /nowhere/text.txt"]),
    "unknown data set": (["--data.path", None, "--data.dataset", "python_stdlb"], ["'python_stdlb'", "python_stdlib"]),
    "profile": (["--profile", "5:3"], ["--profile must be FIRST:LAST", "'5:3'"]),
    "profile words": (["--profile", "all"], ["--profile must be FIRST:LAST", "'all'"]),
    "profile from 0": (["--profile", "0:3"], ["--profile must be FIRST:LAST", "'0:3'"]),
    "tensorboard": (["--log.tensorboard"], ["log.tensorboard needs the extra: pip install -e '.[tensorboard]'"]),
}


@pytest.mark.parametrize(("arguments", "parts"), REFUSED.values(), ids=REFUSED)
def test_settings(refused, tmp_path, text, small_run, monkeypatch, arguments, parts):
    """Neither a new directory is made nor one that is there is changed."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
    for workdir in (tmp_path / "new", small_run):
        before = snapshot(workdir)
        refused(train_main, ["tiny", "--workdir", workdir, *flags(text), *arguments], *parts)
        assert snapshot(workdir) == before
    assert list(tmp_path.iterdir()) == []


def test_text(refused, tmp_path, text):
    texts = tmp_path / "texts"
    (texts / "folder").mkdir(parents=True)
    (texts / "empty.txt").touch()
    (texts / "folder" / "binary").write_bytes(b"\0\1")
    for name, part in (
        ("empty.txt", f"an empty data set: {texts}/empty.txt has no bytes"),
        ("folder", f"an empty data set: no text files under {texts}/folder"),
        ("empti.txt", f"no file or folder {texts}/empti.txt; did you mean {texts}/empty.txt?"),
    ):
        refused(train_main, ["tiny", "--workdir", tmp_path / "run", *flags(texts / name)], part)
    assert not (tmp_path / "run").exists()


def test_a_file_as_working_directory(refused, tmp_path, text):
    (tmp_path / "run").write_text("mine")
    refused(train_main, ["tiny", "--workdir", tmp_path / "run", *flags(text)], f"{tmp_path}/run is a file")
    assert (tmp_path / "run").read_text() == "mine"
    refused(train_main, ["tiny", *flags(text)], "--workdir")  # none at all


def test_paths_that_are_no_directory(refused, tmp_path, text):
    (tmp_path / "file").write_text("mine")
    for name, part in (
        ("", "workdir is empty"),
        ("gs://bucket/run", "workdir='gs://bucket/run' is a URL"),
        ("~nosuchuser/run", "workdir='~nosuchuser/run': "),
        (tmp_path / "file" / "run", f"the working directory {tmp_path}/file/run cannot be used: Not a directory"),
        (tmp_path / ("x" * 300), "cannot be used: File name too long"),
        ("/proc/run", "the working directory /proc/run cannot be made: No such file or directory"),
        (os.fsdecode(b"b\xff"), "is not UTF-8"),
    ):
        refused(train_main, ["tiny", "--workdir", name, *flags(text)], part)
    refused(train_main, ["tiny", "--workdir", tmp_path / "run", *flags("x" * 300)], "File name too long")
    assert os.listdir(tmp_path) == ["file"]


def test_a_run_of_another_model(refused, tmp_path, text, small_run):
    path = shutil.copytree(small_run, tmp_path / "run")
    before = snapshot(path)
    message = refused(
        train_main,
        ["tiny", "--workdir", path, *flags(text, steps=20), "--model.dim", 32, "--model.no-tied-head"],
        f"the run in {path} has another model",
    )
    listed = [line.strip() for line in message.splitlines()[1:]]
    assert listed == [
        "model.dim: 16 in the workdir, 32 now",
        "model.tied_head: true in the workdir, false now",
    ]
    assert snapshot(path) == before
    assert json.loads((path / "config.json").read_text())["steps"] == 12


def test_evaluation(refused, tmp_path, small_run):
    refused(eval_main, ["perplexity", "--workdir", tmp_path / "none"], f"no run in {tmp_path}/none")
    (tmp_path / "new").mkdir()
    shutil.copy(small_run / "config.json", tmp_path / "new")
    refused(eval_main, ["perplexity", "--workdir", tmp_path / "new"], "has no checkpoint yet")
    for name in ("perplexity", "generate"):
        refused(
            eval_main, [name, "--workdir", small_run, "--step", 7], "no checkpoint of step 7", "there are: 4, 8, 12"
        )
    refused(eval_main, ["perplexity", "--workdir", small_run, "--split", "test"], "'test'", "train, validation")
    refused(
        eval_main, ["perplexity", "--workdir", small_run, "--path", tmp_path / "x"], f"no file or folder {tmp_path}/x"
    )
    refused(eval_main, ["perplexity", "--workdir", small_run, "--batch_size", 0], "batch_size", "0")
    refused(eval_main, ["generate", "--workdir", small_run, "--seed", "9" * 20], "seed must be in [0, 2**32)")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "config.json"]
    assert not (tmp_path / "none").exists()


def test_second_run_in_a_workdir_is_refused(tmp_path, text, small_run, monkeypatch):
    """The second of two runs in one workdir is refused, and the first continues."""
    found = {}

    def start_another(batch):
        while list((tmp_path / "run" / "checkpoints").glob("writing-*")):  # that of step 4, on a slow disk
            time.sleep(0.05)
        before = snapshot(tmp_path / "run" / "checkpoints"), (tmp_path / "run" / "metrics.jsonl").read_bytes()
        found["done"] = command("-m", "train", "tiny", "--workdir", tmp_path / "run", *flags(text))
        assert (snapshot(tmp_path / "run" / "checkpoints"), (tmp_path / "run" / "metrics.jsonl").read_bytes()) == before

    at_batch(monkeypatch, 7, start_another)
    loop.train(small(text), str(tmp_path / "run"))
    done = found["done"]
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: .*process \d+ is running in {tmp_path}/run; stop it first, or give another working directory\n",
        done.stderr,
    )
    assert_same_run(tmp_path / "run", small_run)


def test_help(capsys):
    assert train_main([]) == 2
    assert train_main(["--help"]) == 0
    listing = capsys.readouterr().out
    for name in ("default", "tiny", "griffin_100m"):
        assert re.search(rf"^  {name} +\w", listing, re.MULTILINE)
    for words in (["tiny", "--help"], ["griffin_100m", "-h"]):
        with pytest.raises(SystemExit) as ended:
            train_main(words)
        assert ended.value.code == 0
        assert all(f"--{name}" in capsys.readouterr().out for name in ("workdir",))
    assert eval_main(["--help"]) == 0
    assert jax.device_count() == 8
