"""Data from a function of the user's own, and from images and arrays of TFDS."""

import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recurrax.mixers import LRU
from recurrax.models import ClassifierConfig, LanguageModelConfig, RegressorConfig
from runs import metrics
from train.__main__ import main
from train.data import ArrayData, FunctionData, batch_at, functions, open_data

SOURCE = """
import numpy as np

def text(seed, index):
    tokens = np.random.default_rng((seed, index)).integers(0, 4, 17)
    return {"inputs": tokens[:-1], "targets": tokens[1:]}

def numbers(seed, index):
    x = np.random.default_rng((seed, index)).normal(size=(8, 2))
    return {"inputs": x, "targets": x.cumsum(0), "weights": np.arange(8) > 3}

def wide(seed, index):
    return {"inputs": np.zeros((4, 2, 2)), "targets": np.zeros(4)}

def ragged(seed, index):
    return {"inputs": np.zeros(4 + index, int), "targets": np.zeros(4 + index, int)}

def bare(seed, index):
    return np.zeros(4)

def short(seed, index):
    return {"inputs": np.zeros(4, int), "targets": np.zeros(3, int)}
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "my_own_sources.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


SMALL = {"dim": 8, "num_layers": 1, "pattern": (LRU(state_dim=4),), "projection": None}


def test_rows_are_those_of_the_function(mine):
    """Batches are functions of seed and step; held-out rows have a seed of their own; the last batch is filled up."""
    data = FunctionData(f"{mine}:numbers", kind="numbers", batch_size=3, held_out=5)
    data.check(RegressorConfig(**SMALL, num_targets=2))
    assert (data.sequence_length, data.features) == (8, 2)
    rows, held_out, _ = open_data(data)
    batch = batch_at(rows, data, 7, 2)
    assert {name: (str(array.dtype), array.shape[2:]) for name, array in batch.items()} == data.fields
    for i in range(3):
        x = np.random.default_rng((7, 6 + i)).normal(size=(8, 2))
        np.testing.assert_allclose(batch["targets"][i], x.cumsum(0), rtol=1e-6)
    first, second = held_out.batches(3)
    assert second["weights"].sum(1).tolist() == [4, 4, 0]
    x = np.random.default_rng((2**32, 0)).normal(size=(8, 2))
    np.testing.assert_allclose(first["inputs"][0], x, rtol=1e-6)
    text = open_data(FunctionData(f"{mine}:text"))[0].take([(0, 0)])[0]
    assert text["reset"].tolist() == [True] + 15 * [False]
    assert text["weights"].sum() == 16


@pytest.mark.usefixtures("compiled_once")
def test_command_line_names_the_function(mine, tmp_path, monkeypatch):
    """FILE.py:FUNCTION, or MODULE:FUNCTION in the present folder."""
    monkeypatch.chdir(mine.parent)
    words = ["tiny", "--steps", "2", "--model.num-layers", "1", "--model.dim", "16", "--evaluation.max-batches", "1"]
    for i, source in enumerate((f"{mine}:text", "my_own_sources:text")):
        assert main([*words, "--data", source, "--workdir", str(tmp_path / str(i))]) == 0
    assert metrics(tmp_path / "0") == metrics(tmp_path / "1")


REFUSALS = {
    "wide": ("numbers", RegressorConfig(**SMALL), r"returns inputs float32\[4, 2, 2\], .*; inputs must be tokens"),
    "short": ("text", LanguageModelConfig(**SMALL), r"targets int32\[3\].*targets of kind 'text' \(T,\) integers"),
    "text": ("numbers", LanguageModelConfig(**SMALL), r"targets of kind 'numbers' \(T,\) or \(T, N\) floats"),
    "numbers": ("numbers", RegressorConfig(**SMALL, vocab_size=4), "the model reads tokens"),
    "bare": ("text", LanguageModelConfig(**SMALL), "must return a dict of arrays, got ndarray"),
    "txt": ("text", LanguageModelConfig(**SMALL), r"has no function 'txt' \(did you mean 'text'\?\)"),
}


@pytest.mark.parametrize("function", REFUSALS)
def test_functions_that_do_not_fit_are_refused(mine, function):
    kind, model, message = REFUSALS[function]
    with pytest.raises(ValueError, match=message):
        FunctionData(f"{mine}:{function}", kind=kind).check(model)


def test_rows_that_change_their_form_are_refused(mine):
    data = FunctionData(f"{mine}:ragged")
    with pytest.raises(ValueError, match=r"returns inputs int32\[4\].* first, and later inputs int32\[5\]"):
        open_data(data)[0].take([(0, 1)])
    for name, message in (
        ("nowhere.py:f", "does not exist"),
        ("nowhere_at_all:f", "is in no module"),
        ("f", "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            functions.find_function(name, "data.source")


class RecurraxTestArrays(tfds.core.GeneratorBasedBuilder):
    """Images with labels, and series with a number per step."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Tensor(shape=(3, 4, 2), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=3),
            "series": tfds.features.Tensor(shape=(5,), dtype=np.float32),
            "level": tfds.features.Tensor(shape=(5,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(100, 7)}

    def _generate_examples(self, start, count):
        for i in range(start, start + count):
            series = np.arange(5, dtype=np.float32) + i
            image = np.full((3, 4, 2), i, np.uint8)
            yield i, {"image": image, "label": i % 3, "series": series, "level": 2 * series}


def test_images_and_arrays_are_read_as_sequences(tmp_path):
    """Pixel by pixel or row by row, with the class at the last step; series with a number at each."""
    common = {"dataset": "recurrax_test_arrays", "data_dir": str(tmp_path), "batch_size": 4}
    pixels = ArrayData(**common)
    assert (pixels.kind, pixels.sequence_length, pixels.features) == ("classes", 12, 2)
    pixels.check(ClassifierConfig(**SMALL, num_classes=3))
    rows, held_out, identity = open_data(pixels)
    assert (len(rows), held_out.count) == (20, 7)
    assert identity["validation"]["rows"] == 7
    seen = set()
    for step in range(5):
        batch = batch_at(rows, pixels, 1, step)
        for inputs, targets, weights in zip(batch["inputs"], batch["targets"], batch["weights"], strict=True):
            number = round((float(inputs[0, 0]) + 0.5) * 255)
            seen.add(number)
            assert targets.tolist() == [0] * 11 + [number % 3]
            assert weights.tolist() == [0] * 11 + [1]
    assert seen == set(range(20))
    assert sum(batch["weights"].sum() for batch in held_out.batches(4)) == 7
    lines = ArrayData(**common, scan="row")
    assert (lines.sequence_length, lines.features) == (3, 8)
    series = ArrayData(**common, inputs="series", targets="level")
    series.check(RegressorConfig(**SMALL))
    (row,) = open_data(series)[0].take([3])
    np.testing.assert_allclose(row["targets"], 2 * row["inputs"][:, 0])
    assert (series.kind, row["weights"].tolist()) == ("numbers", [1] * 5)
    for data, model, message in (
        (pixels, ClassifierConfig(**SMALL, num_classes=2), "model.num_classes must be 3"),
        (pixels, ClassifierConfig(**SMALL, vocab_size=9), "set model.vocab_size to None"),
        (ArrayData(**common, inputs="pixels"), ClassifierConfig(**SMALL), "has no feature 'pixels'"),
    ):
        with pytest.raises(ValueError, match=message):
            (data.kind, data.check(model))
