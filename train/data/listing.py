"""The text files of a folder, and what else was there: what is left out is counted and named."""

import collections
import dataclasses
import os
import stat
from pathlib import Path

from train.data.text_file import Stamp, TextFile

SNIFFED_BYTES = 8192  # a NUL among the first bytes means binary: the rule of git and grep
NAMES_SAID = 3  # of each kind that is left out

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-zip",
}
"""First bytes of compressed files, and what compressed them."""
BZIP2_BLOCK = b"1AY&SY"  # four bytes in; without it, a text may well begin with "BZh"


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds, at any depth. Paths are relative to it, with `/`."""

    files: dict[str, Stamp]
    """The text files, sorted by path."""
    left_out: dict[str, list[str]]
    """Paths that are not read, by the reason; a folder that is not entered counts as one."""

    def describe_left_out(self) -> str:
        """For example "2 binary (a.png, b.png), 1 hidden (.git)"; empty if nothing is left out."""
        parts = []
        for reason, paths in sorted(self.left_out.items()):
            more = ", ..." if len(paths) > NAMES_SAID else ""
            parts.append(f"{len(paths):,} {reason} ({', '.join(sorted(paths)[:NAMES_SAID])}{more})")
        return ", ".join(parts)


def compression(head: bytes) -> str | None:
    """The program that compressed a file which begins with `head`, or None."""
    if head.startswith(b"BZh") and head[4:10] != BZIP2_BLOCK:
        return None
    return next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)


def list_folder(root: Path) -> Listing:
    """Every text file under `root` that is not hidden, links to files and folders included.

    What is reached without links comes first, and nothing is listed under two paths because of a link: a link to what
    is listed already, and so every loop, is left out. Hard links are files like any other.

    Raises:
        OSError: `root` itself cannot be read.
    """
    files, left_out = {}, collections.defaultdict(list)
    seen = set()  # device and inode of every file and folder so far
    pending, links = collections.deque([""]), collections.deque()
    while pending or links:
        is_link = not pending
        path = links.popleft() if is_link else pending.popleft()
        entries = []
        try:
            status = os.stat(root / path)
            is_folder = stat.S_ISDIR(status.st_mode)
            if (is_link or is_folder) and (status.st_dev, status.st_ino) in seen:
                left_out["linked twice"].append(path)
            elif is_folder:
                with os.scandir(root / path) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            elif reason := _no_text(root / path, status):
                left_out[reason].append(path)
            else:
                files[path] = Stamp.of(status)
            seen.add((status.st_dev, status.st_ino))
        except OSError:
            if not path:
                raise
            left_out["unreadable"].append(path)
        for entry in entries:
            child = f"{path}/{entry.name}" if path else entry.name
            if entry.name.startswith("."):
                left_out["hidden"].append(child)
            else:
                (links if entry.is_symlink() else pending).append(child)
    return Listing(dict(sorted(files.items())), dict(left_out))


def _no_text(path: Path, status: os.stat_result) -> str | None:
    """Why what is at `path`, no folder, is not read as text; None if it is."""
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        return "not regular files"
    head = TextFile(path, Stamp.of(status)).read(0, min(status.st_size, SNIFFED_BYTES)).tobytes()
    if not head:
        return "empty"
    if compression(head) is not None:
        return "compressed"
    return "binary" if b"\0" in head else None
