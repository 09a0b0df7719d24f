"""Local files and folders as documents: each on one side of the split, whatever else comes."""

import os
from pathlib import Path

import pytest

from documents import random_documents
from train.data import DataConfig, open_documents
from train.data.local_text import split_paths, text_files


def write_files(root, contents):
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@pytest.mark.parametrize(
    ("size", "fraction", "held_out"), [(1000, 0.05, 50), (2, 0.05, 1), (7, 0.999, 6), (3, 0.001, 1)]
)
def test_local_file_is_cut_into_train_and_validation(tmp_path, size, fraction, held_out):
    content = random_documents([size])[0].tobytes()
    write_files(tmp_path, {"text.txt": content})
    config = DataConfig(path=str(tmp_path / "text.txt"), validation_fraction=fraction)
    train, validation = (open_documents(config, split) for split in ("train", "validation"))
    assert len(train) == len(validation) == 1
    assert train[0].tobytes() + validation[0].tobytes() == content
    assert len(validation[0]) == held_out
    assert train.lengths().tolist() == [size - held_out]


def test_local_folder_is_every_visible_text_file_once(tmp_path):
    texts = {f"part{i % 3}/{i}.txt": f"text {i}".encode() for i in range(40)}
    others = {".hidden": b"h", ".git/config": b"g", "part0/image.png": b"\x89PNG\0\0", "part1/empty.txt": b""}
    write_files(tmp_path, texts | others)
    os.mkfifo(tmp_path / "pipe")
    assert text_files(tmp_path) == sorted(texts)
    found = {}
    for split in ("train", "validation"):
        documents = open_documents(DataConfig(path=str(tmp_path), validation_fraction=0.2), split)
        found[split] = [documents[i].tobytes() for i in range(len(documents))]
        assert documents.lengths().tolist() == [len(text) for text in found[split]]
    assert sorted(found["train"] + found["validation"]) == sorted(texts.values())
    assert 2 <= len(found["validation"]) <= 16


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("count", [2, 3, 20])
def test_local_folder_has_a_file_in_each_split(count, fraction):
    paths = [f"{i}.txt" for i in range(count)]
    parts = split_paths(paths, fraction)
    assert parts["train"]
    assert parts["validation"]
    assert sorted(parts["train"] + parts["validation"]) == sorted(paths)


def test_local_file_stays_on_its_side_when_others_come():
    paths = [f"{i}.txt" for i in range(60)]
    before = split_paths(paths[:20], 0.3)
    for count in range(21, 60):
        after = split_paths(paths[:count], 0.3)
        for split in before:
            assert set(before[split]) <= set(after[split])


def test_local_folder_of_one_file_is_that_file(tmp_path):
    write_files(tmp_path, {"only.txt": b"0123456789" * 10, "empty.txt": b""})
    config = DataConfig(path=str(tmp_path))
    parts = [open_documents(config, split)[0].tobytes() for split in ("train", "validation")]
    assert b"".join(parts) == b"0123456789" * 10
    assert len(parts[1]) == 5


def test_local_file_that_changes_under_a_run_is_noticed(tmp_path):
    write_files(tmp_path, {"a.txt": b"aaaa", "b.txt": b"bbbb"})
    documents = open_documents(DataConfig(path=str(tmp_path)), "train")
    documents._map.cache_clear()
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"longer than before")
    with pytest.raises(RuntimeError, match="changed while in use: 4 bytes before, 18 now"):
        documents[0]


def test_local_path_that_is_missing_is_refused_with_the_closest_name(tmp_path, monkeypatch):
    write_files(tmp_path, {"shakespeare.txt": b"text"})
    with pytest.raises(
        FileNotFoundError, match=f"no file or folder {tmp_path}/shakespear.txt; did you mean .*/shakespeare.txt"
    ):
        open_documents(DataConfig(path=str(tmp_path / "shakespear.txt")), "train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no file or folder {tmp_path}/qqq$"):
        open_documents(DataConfig(path="qqq"), "train")
    with pytest.raises(FileNotFoundError, match=f"nor its folder {tmp_path}/no"):
        open_documents(DataConfig(path="no/file.txt"), "train")


def test_local_path_without_text_is_refused(tmp_path):
    write_files(tmp_path, {"empty.txt": b"", "one.txt": b"x", "folder/.hidden": b"text", "blank/empty.txt": b""})
    for path, message in (
        (tmp_path / "empty.txt", "an empty data set"),
        (tmp_path / "folder", "an empty data set: no text files under"),
        (tmp_path / "blank", "an empty data set: no text files under"),
        (tmp_path / "one.txt", "one byte: too little"),
        (Path("/dev/null"), "neither a regular file nor a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            open_documents(DataConfig(path=str(path)), "train")
