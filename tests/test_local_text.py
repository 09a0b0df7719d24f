"""Local files and folders as documents: each on one side of the split, whatever else comes."""

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest

from documents import random_documents
from train.data import BadRecordError, DataConfig, Rows, open_documents
from train.data.listing import list_folder
from train.data.local_text import OPEN_FILES, split_paths


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
    assert list(list_folder(tmp_path).files) == sorted(texts)
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


def test_local_split_is_stable_under_new_files():
    """A file stays in its split when other files are added."""
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


CHANGES = {
    "cut short": lambda path: path.write_bytes(b"short"),
    "emptied": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b" and more"),
    "rewritten": lambda path: (path.write_bytes(b"B" * 4000), os.utime(path, ns=(0, 1))),  # in one tick of the clock
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", ["", "a.txt"], ids=["folder", "file"])
def test_text_that_changes_in_use_is_noticed(tmp_path, change, name):
    """A memory map would end the process with SIGBUS, or read a mixture of both texts (cpython#148650)."""
    write_files(tmp_path, {"a.txt": b"a" * 4000, "b.txt": b"b" * 4000})
    documents = open_documents(DataConfig(path=str(tmp_path / name)), "train")
    rows = Rows(documents, 16)
    before = rows[3]["inputs"]
    for path in tmp_path.iterdir():
        change(path)
    with pytest.raises(BadRecordError, match=rf"{tmp_path}/[ab].txt cannot be read: it changed while in use"):
        rows[3]
    with pytest.raises(BadRecordError, match="it changed while in use"):
        documents[0]
    assert (before < 256).all()


def test_text_replaced_or_deleted_is_read_on(tmp_path):
    """An open file is what it was, whatever its name means now."""
    write_files(tmp_path, {"a.txt": b"a" * 4000})
    rows = Rows(open_documents(DataConfig(path=str(tmp_path / "a.txt")), "train"), 16)
    write_files(tmp_path, {"new.txt": b"other"})
    os.replace(tmp_path / "new.txt", tmp_path / "a.txt")
    assert (rows[3]["inputs"] == ord("a")).all()
    (tmp_path / "a.txt").unlink()
    assert (rows[100]["inputs"] == ord("a")).all()


def test_folder_opens_few_files_at_a_time(tmp_path):
    write_files(tmp_path, {f"{i}.txt": b"%d" % i for i in range(3 * OPEN_FILES)})
    documents = open_documents(DataConfig(path=str(tmp_path)), "train")
    texts = {documents[i].tobytes() for _ in range(2) for i in range(len(documents))}
    assert len(texts) == len(documents) > 2 * OPEN_FILES
    opened = [path for path in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if path.startswith(str(tmp_path))]
    assert 0 < len(opened) <= OPEN_FILES


def test_folder_where_every_file_is_bad_is_refused(tmp_path, capsys):
    """With nothing but padding to train on, there is no use in leaving it out."""
    write_files(tmp_path, {f"{i}.txt": b"some text" for i in range(20)})
    documents = open_documents(DataConfig(path=str(tmp_path), on_bad_record="skip"), "train")
    for path in tmp_path.iterdir():
        path.unlink()
    for i in range(len(documents) - 1):
        assert not len(documents[i])
    assert capsys.readouterr().out.count("is left out") == len(documents) - 1
    for _ in range(2):
        with pytest.raises(BadRecordError, match=f"None of the {len(documents)} records is left"):
            documents[len(documents) - 1]


@pytest.mark.parametrize("size", [4000, 1_000_000])
def test_text_identity_changes_with_the_text(tmp_path, size):
    """Not with its place or its time: a copy on another machine is the same text."""
    texts = {f"{i}.txt": bytes([65 + i]) * size for i in range(3)}

    def identity(name, changes):
        folder = tmp_path / name
        write_files(folder, {path: text for path, text in (texts | changes).items() if text})
        return [open_documents(DataConfig(path=str(folder)), split).identity() for split in ("train", "validation")]

    first = identity("first", {})
    assert identity("copy", {}) == first
    changed = {
        "appended": {"0.txt": texts["0.txt"] + b"!"},
        "other": {"0.txt": b"X" + texts["0.txt"][1:]},
        "last byte": {"0.txt": texts["0.txt"][:-1] + b"X"},
        "more": {"3.txt": b"text"},
        "fewer": {"0.txt": None},
        "renamed": {"0.txt": None, "4.txt": texts["0.txt"]},
    }
    for name, changes in changed.items():
        assert identity(name, changes) != first, name


def test_folder_follows_links_and_reads_nothing_twice(tmp_path):
    write_files(tmp_path, {"text/a.txt": b"a", "text/b/c.txt": b"c", "outside/d.txt": b"d", "outside/e/f.txt": b"f"})
    root = tmp_path / "text"
    for name, target in {
        "0link": "b",  # to a folder that is there, before it in the alphabet
        "again.txt": "a.txt",
        "loop": "..",  # the folder that holds this one
        "b/loop": ".",
        "outside": "../outside",
        "one.txt": "../outside/d.txt",
        "gone": "nowhere",
        "round": "round",
    }.items():
        (root / name).symlink_to(target)
    listing = list_folder(root)
    # `loop` leads to `outside` too, whatever name it has there; `one.txt` was met first.
    assert list(listing.files) == ["a.txt", "b/c.txt", "loop/outside/d.txt", "loop/outside/e/f.txt"]
    twice = ["0link", "again.txt", "b/loop", "loop/text", "one.txt", "outside"]
    assert {reason: sorted(paths) for reason, paths in listing.left_out.items()} == {
        "linked twice": twice,
        "unreadable": ["gone", "round"],
    }


COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda text: bytes.fromhex("28b52ffd") + text,
    "lz4": lambda text: bytes.fromhex("04224d18") + text,
    "zip": lambda text: b"PK\x03\x04" + text,
    "7z": lambda text: bytes.fromhex("377abcaf271c") + text,
    "Z": lambda text: bytes.fromhex("1f9d") + text,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_text_is_refused_and_named(tmp_path, suffix):
    """A compressed file is recognised by its first bytes, whatever its name is."""
    text = b"words of a text that is easily compressed, " * 40
    write_files(tmp_path, {f"a.{suffix}": COMPRESSORS[suffix](text), "named.txt": COMPRESSORS[suffix](text)})
    for name in (f"a.{suffix}", "named.txt"):
        with pytest.raises(ValueError, match=rf"{tmp_path}/{name} is compressed \(.*\): give the text itself"):
            open_documents(DataConfig(path=str(tmp_path / name)), "train")
    with pytest.raises(
        ValueError, match=rf"no text files under {tmp_path}; there are: 2 compressed \(a.{suffix}, named"
    ):
        open_documents(DataConfig(path=str(tmp_path)), "train")
    write_files(tmp_path, {"BZh.txt": b"BZh is how some files begin", "PK": b"PK"})
    said = []
    assert len(open_documents(DataConfig(path=str(tmp_path)), "train", said.append)) == 1
    assert said == [f"Left out of {tmp_path}: 2 compressed (a.{suffix}, named.txt)"]


def test_what_is_left_out_is_counted_and_named(tmp_path):
    write_files(tmp_path, {"a.txt": b"text", "b.txt": b"text", ".git/config": b"x", ".env": b"x", "empty": b""})
    write_files(tmp_path, {f"{i}.png": b"\x89PNG\0" for i in range(4)})
    os.mkfifo(tmp_path / "pipe")
    said = []
    open_documents(DataConfig(path=str(tmp_path)), "train", said.append)
    assert said == [
        f"Left out of {tmp_path}: 4 binary (0.png, 1.png, 2.png, ...), 1 empty (empty), 2 hidden (.env, .git), "
        "1 not regular files (pipe)"
    ]


def test_binary_file_is_read_with_a_notice(tmp_path):
    """A binary file is read as it is, with a notice."""
    write_files(tmp_path, {"utf16.txt": "some text".encode("utf-16-le"), "latin1.txt": "größer".encode("latin-1")})
    for name, lines in (("utf16.txt", 1), ("latin1.txt", 0)):
        said = []
        assert len(open_documents(DataConfig(path=str(tmp_path / name)), "train", said.append)[0])
        assert len(said) == lines
        assert all(f"{tmp_path}/{name} looks binary" in line for line in said)


def test_missing_local_path_suggests_the_closest(tmp_path, monkeypatch):
    """A missing local path is refused, with the closest name."""
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
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "empty.txt", "an empty data set"),
        (tmp_path / "folder", "an empty data set: no text files under .*; there are: 1 hidden"),
        (tmp_path / "blank", "an empty data set: no text files under .*; there are: 1 empty"),
        (tmp_path / "nothing", "an empty data set: no text files under [^;]*$"),
        (tmp_path / "one.txt", "one byte: too little"),
        (tmp_path / "pipe", "neither a regular file nor a folder"),
        ("/dev/null", "neither a regular file nor a folder"),
        ("", "data.path is empty"),
        ("gs://bucket/text", "data.path='gs://bucket/text' is a URL"),
        ("~nosuchuser/text", "data.path='~nosuchuser/text': .*home directory"),
    ):
        with pytest.raises(ValueError, match=message):
            open_documents(DataConfig(path=str(path)), "train")


def test_local_names_that_are_not_utf8_are_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    for name in (b"\xfe1", b"\xfe2"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"text of " + name)
    documents = [open_documents(DataConfig(path=os.fsdecode(folder)), split) for split in ("train", "validation")]
    assert sorted(part[0].tobytes() for part in documents) == [b"text of \xfe1", b"text of \xfe2"]
    assert documents[0].identity() != documents[1].identity()
