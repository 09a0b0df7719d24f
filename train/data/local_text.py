"""Provides a local text file, or a folder of text files, as documents."""

import difflib
import functools
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.data.bad_record import BadRecords
from train.data.listing import SNIFFED_BYTES, compression, list_folder
from train.data.single_document import FilePart, part_of_document
from train.data.text_file import Stamp, TextFile
from train.paths import local_path

OPEN_FILES = 64  # a process may often have only 256, and there are two splits


class FolderText:
    """The documents of a folder: each of `files`, whose paths are relative to `root`, is one document."""

    def __init__(self, name: str, root: Path, files: dict[str, Stamp], bad: BadRecords):
        self.name = name
        self._bad = bad
        self._root = str(root)
        self._paths = list(files)
        self._stamps = list(files.values())
        self._lengths = np.array([stamp.size for stamp in self._stamps], dtype=np.int64)
        self._file = functools.lru_cache(maxsize=OPEN_FILES)(self._open)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.span(index, 0, int(self._lengths[index]))

    def span(self, index: int, begin: int, end: int) -> np.ndarray:
        try:
            return self._file(index).read(begin, end)
        except OSError as error:
            return np.frombuffer(self._bad.met(self._path(index), 0, error, of=len(self)), dtype=np.uint8)

    def lengths(self) -> np.ndarray:
        return self._lengths

    def identity(self) -> dict:
        digest = hashlib.sha256()
        for index, path in enumerate(self._paths):
            digest.update(os.fsencode(path) + b"\0" + self._file(index).digest().encode())
        return {"files": len(self), "bytes": int(self._lengths.sum()), "sha256": digest.hexdigest()}

    def stamp(self) -> str:
        paths = (os.fsencode(path) for path in self._paths)
        written = (b"%s\0%d %d\n" % (path, *stamp) for path, stamp in zip(paths, self._stamps, strict=True))
        return hashlib.sha256(b"".join(written)).hexdigest()

    def _open(self, index: int) -> TextFile:
        return TextFile(self._path(index), self._stamps[index])

    def _path(self, index: int) -> str:
        return os.path.join(self._root, self._paths[index])


def open_local_text(
    path: str, validation_fraction: float, split: str, bad: BadRecords, say: Callable[[str], object]
) -> FilePart | FolderText:
    """Return the documents of one split of a file or folder. Bytes are used unchanged, in any encoding.

    A file is one document per split; the last `validation_fraction` of its bytes is the validation document. In a
    folder, every text file at any depth is a document, links are followed, and a hash of the relative path determines
    the split; each split has at least one document. Hidden, compressed, binary, unreadable and empty files of a folder
    are left out and reported through `say`. A folder with one text file is treated as that file.

    Raises:
        FileNotFoundError: `path` does not exist; the message suggests the closest name.
        ValueError: `path` is neither file nor folder, is compressed, or holds no text.
        OSError: `path` cannot be read.
    """
    root = local_path("data.path", path)
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no file or folder {root}{_closest(root)}") from None
    if stat.S_ISREG(mode):
        return _part_of_file(root, validation_fraction, split, say)
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{root} is neither a regular file nor a folder")
    listing = list_folder(root)
    left_out = listing.describe_left_out()
    if not listing.files:
        found = f"; there are: {left_out}" if left_out else ""
        raise ValueError(f"an empty data set: no text files under {root}{found}")
    if left_out:
        say(f"Left out of {root}: {left_out}")
    if len(listing.files) == 1:
        return _part_of_file(root / next(iter(listing.files)), validation_fraction, split, say)
    chosen = split_paths(list(listing.files), validation_fraction)[split]
    return FolderText(f"{root}:{split}", root, {path: listing.files[path] for path in chosen}, bad)


def split_paths(paths: list[str], validation_fraction: float) -> dict[str, list[str]]:
    """Assign two or more paths to splits: validation if sha256(path) / 2^256 < fraction; no split is empty."""
    by_hash = sorted(paths, key=_path_hash)
    below = sum(_path_hash(path) < validation_fraction * 2.0**256 for path in paths)
    held_out = set(by_hash[: min(max(below, 1), len(paths) - 1)])
    return {
        "train": [path for path in paths if path not in held_out],
        "validation": [path for path in paths if path in held_out],
    }


def _path_hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest(), "big")


def _part_of_file(path: Path, validation_fraction: float, split: str, say: Callable[[str], object]) -> FilePart:
    file = TextFile(path)
    begin, end = part_of_document(str(path), file.stamp.size, validation_fraction, split)
    head = file.read(0, min(file.stamp.size, SNIFFED_BYTES)).tobytes()
    if (program := compression(head)) is not None:
        raise ValueError(f"{path} is compressed ({program}): give the text itself")
    if b"\0" in head:
        say(f"warning: {path} looks binary (it has NUL bytes); its bytes are taken as they are")
    return FilePart(f"{path}:{split}", file, begin, end)


def _closest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor its folder {path.parent})"
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
