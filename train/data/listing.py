"""Lists the text files of a folder, and the files that are left out, with the reasons."""

import collections
import dataclasses
import os
import stat
from pathlib import Path

from train.data.text_file import Stamp, TextFile

SNIFFED_BYTES = 8192  # a NUL byte among the first ones means binary, as in git and grep
NAMES_SAID = 3  # names per reason in the message

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
"""Magic numbers of compressed files, and the names of their formats."""
BZIP2_BLOCK = b"1AY&SY"  # at offset 4; without it, the file may be a text that begins with "BZh"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The contents of a folder at any depth. Paths are relative to it, with `/`."""

    files: dict[str, Stamp]
    """Stamps of the text files by path, sorted by path."""
    left_out: dict[str, list[str]]
    """Paths that are not read, by reason; a folder that is not entered counts as one path."""

    def describe_left_out(self) -> str:
        """Return a text such as "2 binary (a.png, b.png), 1 hidden (.git)"; empty if nothing is left out."""
        parts = []
        for reason, paths in sorted(self.left_out.items()):
            more = ", ..." if len(paths) > NAMES_SAID else ""
            parts.append(f"{len(paths):,} {reason} ({', '.join(sorted(paths)[:NAMES_SAID])}{more})")
        return ", ".join(parts)


def compression(head: bytes) -> str | None:
    """Return the compression format of a file that begins with `head`, or None."""
    if head.startswith(b"BZh") and head[4:10] != BZIP2_BLOCK:
        return None
    return next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)


def list_folder(root: Path) -> Listing:
    """List every text file under `root` that is not hidden, including links to files and folders.

    Paths without links take precedence. A link to a file or folder that is already listed, and so every loop, is left
    out. Hard links are treated as separate files.

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
    """Return the reason why the file at `path`, which is not a folder, is not read as text, or None if it is read."""
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        return "not regular files"
    head = TextFile(path, Stamp.of(status)).read(0, min(status.st_size, SNIFFED_BYTES)).tobytes()
    if not head:
        return "empty"
    if compression(head) is not None:
        return "compressed"
    return "binary" if b"\0" in head else None
