"""Training a published checkpoint further on text, in its tokenizer's tokens, and writing it back."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers

from eval.__main__ import main as evaluate
from recurrax import pretrained
from runs import INTERRUPTED, command, metrics, saved_state
from train import presets
from train.__main__ import main
from train.starts import Random

pytestmark = pytest.mark.usefixtures("compiled_once")

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "pretrained" / "mamba"
LETTERS = "abcdefghijklmnopqrstuvwxyz .,'\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The fixture's model, with a token per letter and tokens for "th" and "e "; <s> opens and closes a document."""
    folder = pathlib.Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("published") / "mamba"))
    vocabulary = {"<s>": 0, "<unk>": 1, **{letter: i + 2 for i, letter in enumerate((*LETTERS, "th", "e "))}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("t", "h"), ("e", " ")], unk_token="<unk>"))
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(8):
        (folder / f"{i}.txt").write_text("the other one is the one, they say.\n" * (i + 3))
    return folder


def words(checkpoint, texts, **settings):
    sizes = {"steps": 6, "data.sequence_length": 32, "data.batch_size": 4, "evaluation.every": 3}
    sizes |= {"checkpoint.every": 3, "log.every": 1, "optimizer.learning_rate": 3e-3} | settings
    sizes |= {"data.path": texts, "data.data_dir": texts.parent / f"{texts.name}-data"}
    return [f"finetune:{checkpoint}", *(word for name, value in sizes.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def tuned(checkpoint, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "run"
    assert main([*words(checkpoint, texts), "--workdir", str(path)]) == 0
    return path


def test_tuning_learns_and_counts_bytes(tuned, texts):
    """The loss is per token; metrics have the bytes of a token, so that bits per byte are those of the text."""
    rows = metrics(tuned)
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    assert 1.0 < rows[-1]["validation_bytes_per_token"] < 1.5  # two of 33 tokens have two letters
    first = json.loads((tuned / "data.json").read_text())["train"]
    assert (
        first["tokenizer"]
        == pretrained.Tokenizer(json.loads((tuned / "config.json").read_text())["data"]["tokenizer"]).digest
    )


def test_tuning_resumes_to_the_bit_after_a_kill(tuned, checkpoint, texts, tmp_path):
    killed = ["train.metrics", "Recorder.step", "5", "9", *words(checkpoint, texts), "--workdir", tmp_path / "run"]
    assert command("-c", INTERRUPTED, *killed).returncode == -9
    assert main([*words(checkpoint, texts), "--workdir", str(tmp_path / "run")]) == 0
    assert saved_state(tmp_path / "run") == saved_state(tuned)


def test_tuned_run_is_generated_from_and_evaluated(tuned, texts, capsys):
    """Its tokens are those of its tokenizer, also where another text is evaluated."""
    assert evaluate(["generate", "--workdir", str(tuned), "--prompt", "the ", "--tokens", "12"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("the ")
    assert set(text.partition("\n\n[")[0]) <= set(LETTERS)
    assert evaluate(["perplexity", "--workdir", str(tuned)]) == 0
    out = capsys.readouterr().out
    held_out = metrics(tuned)[-1]
    bits = held_out["validation_loss"] / np.log(2) / held_out["validation_bytes_per_token"]
    assert f"  {bits:.4f} bits per byte" in out


def test_tuned_run_is_written_in_its_published_format(tuned, checkpoint, tmp_path, capsys):
    """What is read back is what was trained; the tokenizer and its special tokens come along."""
    target = tmp_path / "saved"
    assert evaluate(["export", "--workdir", str(tuned), "--directory", str(target)]) == 0
    assert f"step 6 of {tuned} is written to {target} as mamba" in capsys.readouterr().out
    read, saved = pretrained.read_arrays(target), saved_state(tuned)
    assert {path: array.tobytes() for path, array in read.items()} == {
        name.removeprefix("params/"): value[2] for name, value in saved.items() if name.startswith("params/")
    }
    assert pretrained.Tokenizer(target).digest == pretrained.Tokenizer(checkpoint).digest
    assert pretrained.read_config(target) == pretrained.read_config(checkpoint)
    before = pretrained.read_arrays(checkpoint)
    assert any((read[path] != before[path]).any() for path in before)


REFUSALS = {
    "no directory": (["finetune"], "the preset finetune needs a directory: python -m train finetune:DIR"),
    "a directory too many": (["tiny:here"], "the preset tiny takes no directory: python -m train tiny"),
    "nothing there": (["finetune:/nowhere"], "/nowhere has no config.json"),
    "another model": (["finetune:{dir}", "--model.dim", "12"], "the parameters in {dir} are not those of this model"),
    "small vocabulary": (["finetune:{dir}", "--model.vocab_size", "20"], "ids reach 34, but the model's vocabulary"),
    "no tokenizer": (["tiny", "--data.tokenizer", "/nowhere"], "/nowhere has no tokenizer.json"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused(case, checkpoint, texts, tmp_path, capsys):
    given, message = REFUSALS[case]
    with pytest.raises(SystemExit, match="2"):
        main(
            [
                *(word.format(dir=checkpoint) for word in given),
                "--data.path",
                str(texts),
                "--workdir",
                str(tmp_path / "run"),
            ]
        )
    assert message.format(dir=checkpoint) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_without_a_family_is_not_exported(small_run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(["export", "--workdir", str(small_run), "--directory", str(tmp_path / "out")])
    assert "did not start from a published checkpoint; --family says" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_preset_trains_from_nothing_in_tokens(checkpoint):
    config = presets.find(f"tokens:{checkpoint}")()
    assert (config.model.vocab_size, config.data.tokenizer) == (64, str(checkpoint))  # 35 tokens, rounded up
    assert config.start == Random()
