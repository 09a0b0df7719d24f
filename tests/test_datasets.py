"""Where documents come from: the standard library and any TFDS text; refusals that say what is wrong."""

import platform
import resource
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy_tensorflow

import text_datasets  # noqa: F401  registers recurrax_test_text
from documents import REPOSITORY, run_python
from train.data import DataConfig, Rows, batch_at, evaluation_batches, open_documents, tfds_text
from train.data.gfile import local_gfile
from train.data.python_stdlib import PythonStdlib, source_paths, split_of

# Configuration


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": 0},
        {"batch_size": -1},
        {"batch_size": 2.5},
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"dataset": ""},
    ],
)
def test_config_refuses_impossible_values_by_name(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
        DataConfig(**options)


def test_unknown_split_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="split='test': choose one of train, validation"):
        open_documents(DataConfig(), "test")


# python_stdlib


@pytest.fixture(scope="session")
def stdlib_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    open_documents(DataConfig(data_dir=str(data_dir)), "train")
    return data_dir


def test_python_stdlib_documents_are_the_files_of_the_standard_library(stdlib_dir):
    root = Path(sysconfig.get_paths()["stdlib"])
    on_disk = {"train": set(), "validation": set()}
    for path in source_paths(root):
        assert not {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"} & set(path.split("/"))
        on_disk[split_of(path)].add((root / path).read_bytes())
    total = {}
    for split, expected in on_disk.items():
        documents = open_documents(DataConfig(data_dir=str(stdlib_dir)), split)
        texts = [documents[i].tobytes() for i in range(len(documents))]
        assert set(texts) == expected
        total[split] = sum(map(len, texts))
        assert Rows(documents, 256).num_bytes == total[split]
    assert total["train"] > 5_000_000
    assert 0.01 < total["validation"] / total["train"] < 0.1


def test_python_stdlib_split_depends_on_the_path_alone():
    names = [f"package/module_{i}.py" for i in range(4000)]
    held_out = [name for name in names if split_of(name) == "validation"]
    assert 150 < len(held_out) < 250
    # Written down: another rule would mix the splits of data that people have already prepared.
    assert held_out[:3] == ["package/module_40.py", "package/module_46.py", "package/module_64.py"]


def test_python_stdlib_sources_leave_out_what_is_not_the_library(tmp_path):
    for path in (
        "a.py",
        "b/c.py",
        "b/test/d.py",
        "tests/e.py",
        "site-packages/f.py",
        "lib2to3/g.py",
        "h.txt",
        "test.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
    (tmp_path / "empty.py").touch()
    assert source_paths(tmp_path) == ["a.py", "b/c.py", "test.py"]


def test_python_stdlib_is_kept_apart_for_every_interpreter(stdlib_dir):
    (config,) = (stdlib_dir / "python_stdlib").glob("cpython-*")
    assert config.name == f"cpython-{platform.python_version()}"
    assert PythonStdlib(data_dir=stdlib_dir).builder_config.name == config.name
    assert {path.suffix for path in config.rglob("*") if path.is_file()} <= {".json", ".array_record-00000-of-00001"}


def test_python_stdlib_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ValueError, match="an empty data set: no standard-library sources"):
        open_documents(DataConfig(data_dir=str(tmp_path / "data")), "train")


OFFLINE_USE = """
import socket, sys
def refused(*arguments): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refused
from train.data import *
config = DataConfig(data_dir=sys.argv[1] if len(sys.argv) > 1 else DATA_DIR, batch_size=4)
rows = Rows(open_documents(config, "train"), 64)
next(train_batches(rows, config, seed=0))
next(evaluation_batches(open_documents(config, "validation"), 64, 4))
assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "apache_beam")]
"""


def test_first_use_needs_neither_network_nor_tensorflow_and_says_one_line(tmp_path):
    result = run_python(f"DATA_DIR = {str(tmp_path)!r}\n{OFFLINE_USE}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("Preparing python_stdlib in ")
    assert not result.stderr


PREPARE = """
import itertools, os, signal, time
from train.data import DataConfig, open_documents
from train.data.python_stdlib import PythonStdlib
generate = PythonStdlib._generate_examples
def interrupted(self, root, paths):
    time.sleep(1)
    yield from itertools.islice(generate(self, root, paths), 100)
    if KILL: os.kill(os.getpid(), signal.SIGKILL)
    yield from itertools.islice(generate(self, root, paths), 100, None)
PythonStdlib._generate_examples = interrupted
print(len(open_documents(DataConfig(data_dir=DATA_DIR), "train")))
"""


def test_preparation_that_was_killed_is_done_again(tmp_path, stdlib_dir):
    result = run_python(f"KILL = True\nDATA_DIR = {str(tmp_path)!r}\n{PREPARE}")
    assert result.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("python_stdlib/*/incomplete*")), "killed while writing"
    expected, again = (open_documents(DataConfig(data_dir=str(path)), "train") for path in (stdlib_dir, tmp_path))
    assert len(again) == len(expected)
    np.testing.assert_array_equal(again.lengths(), expected.lengths())


def test_two_processes_prepare_once_and_both_read_it(tmp_path, stdlib_dir):
    code = f"KILL = False\nDATA_DIR = {str(tmp_path)!r}\n{PREPARE}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    expected = str(len(open_documents(DataConfig(data_dir=str(stdlib_dir)), "train")))
    assert [lines[-1] for lines in outputs] == [expected, expected]
    assert sorted(len(lines) for lines in outputs) == [1, 2], "one of them prepared, the other waited"


# Any TFDS text data set


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
def test_tfds_validation_is_its_validation_or_else_its_test_split(
    tmp_path, config_name, held_out, train_count, held_out_count
):
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
def test_tfds_data_sets_that_cannot_be_used_are_refused_by_name(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message):
        open_documents(DataConfig(dataset=dataset, data_dir=str(tmp_path)), "train")


def test_tfds_builder_that_needs_a_package_says_which_and_how_to_go_on(tmp_path):
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


def test_lm1b_is_prepared_without_tensorflow_through_the_shuffler_on_disk(tmp_path, monkeypatch):
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


def test_documents_of_a_small_corpus_are_decoded_once(stdlib_dir, monkeypatch):
    documents = open_documents(DataConfig(data_dir=str(stdlib_dir)), "validation")
    config = DataConfig(sequence_length=64)
    rows = Rows(documents, config.sequence_length)
    decoded = []
    decode = documents._text
    monkeypatch.setattr(documents, "_text", lambda record: decoded.append(1) or decode(record))
    for step in range(len(rows) // config.batch_size + 1):
        batch_at(rows, config, 0, step)
    assert len(decoded) <= len(documents)


def test_documents_of_a_batch_are_read_together(tmp_path, monkeypatch):
    config = DataConfig("recurrax_test_text/train_only", data_dir=str(tmp_path), sequence_length=32, batch_size=16)
    documents = open_documents(config, "train")
    rows = Rows(documents, config.sequence_length)
    documents._cache.clear()
    together = []
    monkeypatch.setattr(
        documents, "read_ahead", lambda indices, read=documents.read_ahead: (together.extend(indices), read(indices))
    )
    monkeypatch.setattr(type(documents._records), "__getitem__", None)  # reading one record alone would fail
    batch_at(rows, config, 0, 0)
    assert len(set(together)) == len(together) > 1
    list(evaluation_batches(documents, 32, 4))


def test_documents_of_a_large_corpus_stay_within_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_text, "CACHE_BYTES", 2000)
    config = DataConfig("recurrax_test_text/train_only", data_dir=str(tmp_path))
    documents = open_documents(config, "train")
    for i in np.random.default_rng(0).permutation(np.repeat(np.arange(len(documents)), 3)):
        assert len(documents[int(i)]) == documents.lengths()[i]
        assert (
            documents._cache_bytes
            == sum(len(t) + tfds_text.CACHE_ENTRY_BYTES for t in documents._cache.values())
            <= 2000
        )


def test_lengths_of_a_large_data_set_are_measured_once_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tfds_text, "KEEP_LENGTHS_FROM", 10)
    config = DataConfig("recurrax_test_text/train_only", data_dir=str(tmp_path))
    first = open_documents(config, "train")
    capsys.readouterr()
    measured = first.lengths()
    assert capsys.readouterr().out.startswith("Measuring 40 documents of recurrax_test_text/train_only")
    assert not list(tmp_path.rglob("*.incomplete"))
    (kept,) = tmp_path.rglob("lengths-*.npy")
    assert kept.stat().st_mode & 0o444 == 0o444, "another user can read it"

    again = open_documents(config, "train")
    monkeypatch.setattr(again, "_text", None)  # reading a record again would fail
    np.testing.assert_array_equal(again.lengths(), measured)
    assert measured.tolist() == [len(first[i]) for i in range(len(first))]
    # The validation part of the same TFDS split uses the same measurement.
    validation = open_documents(config, "validation")
    assert validation.lengths().tolist() == [len(validation[i]) for i in range(len(validation))]
    assert not capsys.readouterr().out
