"""Text of TFDS: its splits, refusals that name the data set, preparation without TensorFlow."""

import resource
import sys

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy_tensorflow

import text_datasets  # noqa: F401  registers recurrax_test_text
from train.data import DataConfig, open_documents
from train.data.gfile import local_gfile

# Configuration


def texts_of(config_name, split, tmp_path, **options):
    config = DataConfig(dataset=f"recurrax_test_text/{config_name}", data_dir=str(tmp_path), **options)
    documents = open_documents(config, split)
    return [documents[i].tobytes().decode() for i in range(len(documents))]


def expected_texts(split, count):
    return sorted(f"{split} {i} äöü " * (i + 1) for i in range(count))


@pytest.mark.parametrize(
    ("config_name", "held_out", "train_count", "held_out_count"),
    [("all_splits", "validation", 6, 3), ("with_test", "test", 6, 2), ("body", "validation", 2, 2)],
)
def test_tfds_validation_falls_back_to_test(tmp_path, config_name, held_out, train_count, held_out_count):
    """Held-out text is the validation split of a TFDS data set, or else its test split."""
    assert sorted(texts_of(config_name, "train", tmp_path)) == expected_texts("train", train_count)
    assert sorted(texts_of(config_name, "validation", tmp_path)) == expected_texts(held_out, held_out_count)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.05, 2), (0.25, 10), (0.001, 1), (0.999, 39)])
def test_tfds_train_alone_is_divided_by_the_fraction(tmp_path, fraction, held_out):
    train = texts_of("train_only", "train", tmp_path, validation_fraction=fraction)
    validation = texts_of("train_only", "validation", tmp_path, validation_fraction=fraction)
    assert len(validation) == held_out
    assert sorted(train + validation) == expected_texts("train", 40)
    documents = open_documents(
        DataConfig("recurrax_test_text/train_only", data_dir=str(tmp_path), validation_fraction=fraction), "validation"
    )
    assert documents.lengths().tolist() == [len(text.encode()) for text in validation]


def test_tfds_single_document_is_divided_by_bytes(tmp_path):
    config = DataConfig("recurrax_test_text/one_document", data_dir=str(tmp_path), validation_fraction=0.25)
    train, validation = (open_documents(config, split)[0].tobytes() for split in ("train", "validation"))
    assert (train + validation).decode() == "train 0 äöü "
    assert len(validation) == round(0.25 * len(train + validation))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("tiny_shakespere", "dataset='tiny_shakespere': no TFDS data set has this name; closest: tiny_shakespeare"),
        ("pyton_stdlib", "closest: python_stdlib"),
        ("zzzzzzzz", "no TFDS data set has this name"),
        ("mnist", r"no text data set.*its features: image \(Image\), label \(ClassLabel\)"),
        ("recurrax_test_text/no_text", r"no text data set.*its features: label \(Scalar\)"),
        ("recurrax_test_text/two_texts", r"no text data set.*question \(Text\), answer \(Text\)"),
        ("recurrax_test_text/no_train", "has no train split; it has test"),
        ("recurrax_test_text/blank", "an empty data set"),
    ],
)
def test_unusable_tfds_data_sets_are_refused(tmp_path, dataset, message):
    """TFDS data sets that cannot be used are refused by name."""
    with pytest.raises(ValueError, match=message):
        open_documents(DataConfig(dataset=dataset, data_dir=str(tmp_path)), "train")


def test_tfds_builder_names_the_package_it_needs(tmp_path):
    """A TFDS builder that needs another package names it and says what to do."""
    config = DataConfig("recurrax_test_text/needs_package", data_dir=str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="needs the package 'apache_beam'.*tfds build recurrax_test_text"):
        open_documents(config, "train")


def test_tfds_download_failure_surfaces_as_it_is(tmp_path, monkeypatch):
    def fails(self, url):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fails)
    with pytest.raises(ConnectionError, match="no route to host"):
        open_documents(DataConfig("tiny_shakespeare", data_dir=str(tmp_path)), "train")


def test_tiny_shakespeare_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    text = "First Citizen:\r\nBefore we proceed any further, hear me speak — ä.\n" * 50
    download = tmp_path / "input.txt"
    download.write_bytes(text.encode())
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda self, url: download)
    config = DataConfig("tiny_shakespeare", data_dir=str(tmp_path / "data"))
    train, validation = (open_documents(config, split) for split in ("train", "validation"))
    assert len(train) == len(validation) == 1
    assert train[0].tobytes().decode() == text[: int(len(text) * 0.9)]
    assert text[len(train[0].tobytes().decode()) :].startswith(validation[0].tobytes().decode())
    assert "tensorflow" not in sys.modules


def test_tensorflow_stand_in_is_gone_after_use():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with local_gfile():
            assert lazy_tensorflow.io.gfile.exists("/")
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 4096
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not {"io", "compat", "errors"} & vars(lazy_tensorflow).keys()


def test_lm1b_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    """LM1B is prepared without TensorFlow, through the shuffler on disk."""
    top = "1-billion-word-language-modeling-benchmark-r13output"
    lines = {"training": [f"training sentence {i}" for i in range(300)], "heldout": ["one held out", "and two"]}
    for kind, path in (
        ("training", "training-monolingual.tokenized.shuffled/news.en-00001-of-00100"),
        ("heldout", "heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050"),
    ):
        file = tmp_path / top / path
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(lines[kind]))
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: tmp_path)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # as for a data set above 1 GB
    config = DataConfig("lm1b", data_dir=str(tmp_path / "data"))
    for split, kind in (("train", "training"), ("validation", "heldout")):
        documents = open_documents(config, split)
        assert sorted(documents[i].tobytes().decode() for i in range(len(documents))) == sorted(lines[kind])
    assert "tensorflow" not in sys.modules
