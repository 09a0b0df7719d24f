"""`eval adapt` and `eval widths`: their tables, from runs of a few steps."""

import dataclasses

import numpy as np
import pytest

from eval import adapt, widths
from eval.__main__ import main
from recurrax.adapters import InitialState, LoRA
from test_finetune import checkpoint, texts  # noqa: F401  fixtures
from train.data import DOCUMENT_START, open_documents
from train.parametrization import MuP, Standard


@pytest.mark.usefixtures("compiled_once")
def test_ways_of_adapting_are_compared(text, small_run, tmp_path):
    """The table has what each way trains, stores and gains."""
    sizes = ["--steps", "4", "--sequence-length", "32", "--batch-size", "4", "--full", "0.01"]
    words = ["adapt", "--source", str(small_run), "--path", str(text), "--workdir", str(tmp_path), *sizes]
    assert main(words) == 0
    page = (tmp_path / "adapt.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        *("the model as it is", "a prompt", "`InitialState()`", f"`{LoRA(rank=4)}`", "all parameters")
    ]
    numbers = [int(row[1].replace(",", "")) for row in rows[1:]]
    assert numbers[0] == 0 < numbers[2] < numbers[3] < numbers[4]
    assert numbers[1] == 4 * numbers[2]  # bytes of the prompt and of the states
    bits = [float(row[4]) for row in rows[1:]]
    assert bits[4] < bits[0]


def test_prompt_has_so_many_bytes(text, checkpoint, texts, small_run, tmp_path):  # noqa: F811
    """It is the beginning of the training text, in bytes or in tokens."""
    command = adapt.Adapt(str(small_run), str(text), str(tmp_path))
    config = adapt.base_config(command)
    first = open_documents(config.data, "train")[0]
    tokens = adapt.prompt(config, 100)
    assert tokens.tolist() == [DOCUMENT_START, *first[:100].tolist()]
    command = dataclasses.replace(command, source=str(checkpoint), path=str(texts))
    config = adapt.base_config(command)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=str(tmp_path)))
    vocabulary = config.data.vocabulary
    tokens = adapt.prompt(config, 100)
    assert 98 <= len(vocabulary.decode(tokens[1:])) <= 100
    (one, two, three) = adapt.ways(adapt.Adapt(str(small_run), str(text), str(tmp_path), rank=3)).values()
    assert (one.adapter, two.adapter, three.adapter) == (InitialState(), LoRA(rank=3), None)
    assert one.optimizer.weight_decay == 0


def test_widths_mark_the_best_learning_rate(tmp_path, monkeypatch, capsys):
    """One line per width and parametrization, the base width once; measured runs are not run again."""
    asked = []

    def loss_of(config):
        asked.append(config)
        shift = 0 if config.parametrization != Standard() or config.model.dim == 32 else -1
        return (
            None if config.optimizer.learning_rate > 0.1 else abs(np.log2(config.optimizer.learning_rate) + 5 - shift)
        )

    monkeypatch.setattr(widths, "loss_of", loss_of)
    words = ["widths", "--workdir", str(tmp_path), "--mixers", "LRU", "--dims", "32", "64"]
    words += ["--exponents", "-7", "-6", "-5", "-4", "-3"]
    assert main(words) == 0
    assert main(words) == 0
    assert len(asked) == 15
    assert {config.parametrization for config in asked} == {Standard(), MuP(32)}
    lines = (tmp_path / "widths.md").read_text().splitlines()
    assert "| LRU | 32, both | 2.000 | 1.000 | **0.000** | 1.000 | - |" in lines
    assert "| LRU | 64, standard | 1.000 | **0.000** | 1.000 | 2.000 | - |" in lines
    assert "| LRU | 64, muP | 2.000 | 1.000 | **0.000** | 1.000 | - |" in lines
