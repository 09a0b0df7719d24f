"""A local text file, or a folder of them, as documents."""

import difflib
import functools
import hashlib
import os
from pathlib import Path

import numpy as np

from train.data.bad_record import BadRecords
from train.data.single_document import SingleDocument, part_of_document

OPEN_FILES = 1024  # memory maps kept; a map costs an address range, not memory
SNIFFED_BYTES = 8192  # a NUL among the first bytes means binary: the rule of git and grep


class FolderText:
    """Every file of `paths` (relative to `root`) is one document, read through memory maps."""

    def __init__(self, name: str, root: Path, paths: list[str], bad: BadRecords):
        self.name = name
        self._bad = bad
        self._root = root
        self._paths = paths
        self._lengths = np.array([(root / path).stat().st_size for path in paths], dtype=np.int64)
        self._map = functools.lru_cache(maxsize=OPEN_FILES)(self._open)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._map(index)

    def lengths(self) -> np.ndarray:
        return self._lengths

    def _open(self, index: int) -> np.ndarray:
        path = self._root / self._paths[index]
        try:
            text = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: the file is empty now
            return np.frombuffer(self._bad.met(path, 0, error), dtype=np.uint8)
        if len(text) != self._lengths[index]:
            why = f"it changed while in use: {self._lengths[index]} bytes before, {len(text)} now"
            return np.frombuffer(self._bad.met(path, 0, why), dtype=np.uint8)
        return text


def open_local_text(path: Path, validation_fraction: float, split: str, bad: BadRecords) -> SingleDocument | FolderText:
    """The documents of one split of a file or folder.

    A file is one document per split: its last `validation_fraction` bytes are the validation document. In a folder
    every text file at any depth is a document (hidden, binary, unreadable and empty ones are left out), and a hash of
    its relative path decides the split; each split gets at least one. A folder with one text file is that file.

    Raises:
        FileNotFoundError: nothing is at `path`; the message names what comes closest.
        ValueError: `path` is neither file nor folder, or holds no text.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}{_closest(path)}")
    if path.is_file():
        return _part_of_file(path, validation_fraction, split)
    if not path.is_dir():
        raise ValueError(f"{path} is neither a regular file nor a folder")
    paths = text_files(path)
    if not paths:
        raise ValueError(f"an empty data set: no text files under {path} (hidden, binary and empty ones do not count)")
    if len(paths) == 1:
        return _part_of_file(path / paths[0], validation_fraction, split)
    chosen = split_paths(paths, validation_fraction)[split]
    return FolderText(f"{path}:{split}", path, chosen, bad)


def text_files(root: Path) -> list[str]:
    """Paths, relative to `root` and sorted, of its readable text files that are not hidden and not empty."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and _is_text(path):
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def split_paths(paths: list[str], validation_fraction: float) -> dict[str, list[str]]:
    """Two or more paths, dealt to the splits by sha256(path) / 2^256 < fraction; each split gets at least one."""
    by_hash = sorted(paths, key=_path_hash)
    below = sum(_path_hash(path) < validation_fraction * 2.0**256 for path in paths)
    held_out = set(by_hash[: min(max(below, 1), len(paths) - 1)])
    return {
        "train": [path for path in paths if path not in held_out],
        "validation": [path for path in paths if path in held_out],
    }


def _path_hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest(), "big")


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
    except OSError:
        return False
    return bool(head) and b"\0" not in head


def _part_of_file(path: Path, validation_fraction: float, split: str) -> SingleDocument:
    if not path.stat().st_size:
        raise ValueError(f"an empty data set: {path} has no bytes")
    return part_of_document(str(path), np.memmap(path, dtype=np.uint8, mode="r"), validation_fraction, split)


def _closest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor its folder {path.parent})"
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
