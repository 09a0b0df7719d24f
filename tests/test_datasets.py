"""Where documents come from: the standard library, prepared once; the cache of documents."""

import platform
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import text_datasets  # noqa: F401  registers recurrax_test_text
from documents import REPOSITORY, run_python
from train.data import DataConfig, Rows, batch_at, evaluation_batches, open_documents, tfds_text
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


def test_stdlib_documents_are_the_library_files(stdlib_dir):
    """The documents are the files of the standard library."""
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
        assert Rows(documents, 256).num_tokens == total[split]
    assert total["train"] > 5_000_000
    assert 0.01 < total["validation"] / total["train"] < 0.1


def test_python_stdlib_split_depends_on_the_path_alone():
    names = [f"package/module_{i}.py" for i in range(4000)]
    held_out = [name for name in names if split_of(name) == "validation"]
    assert 150 < len(held_out) < 250
    # Written down: another rule would mix the splits of data that people have already prepared.
    assert held_out[:3] == ["package/module_40.py", "package/module_46.py", "package/module_64.py"]


def test_stdlib_sources_exclude_other_files(tmp_path):
    """The standard library's sources leave out files that do not belong to the library."""
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


def test_first_use_needs_no_network(tmp_path):
    """The first use needs neither a network nor TensorFlow, and prints one line."""
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


def test_document_cache_is_bounded(tmp_path, monkeypatch):
    """The documents of a large corpus stay within the bounds of the cache."""
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


def test_document_lengths_are_measured_once(tmp_path, monkeypatch, capsys):
    """The lengths of a large data set are measured once and kept."""
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
