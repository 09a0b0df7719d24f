"""Provides a text file that is read while other programs may write to it.

The file is read by `preadv` on an open descriptor, not through a memory map: if a mapped file is truncated or its disk
fails, the next access to the lost bytes kills the process with SIGBUS before anything can be reported or saved. A read
of a descriptor returns fewer bytes, or an error. Replacing or deleting the file does no harm, because a descriptor
keeps the file on which it was opened.
"""

import hashlib
import os
from typing import NamedTuple

import numpy as np

SAMPLES = 16
SAMPLE_BYTES = 4096  # a file of at most 16 * 4096 bytes is read completely


class Stamp(NamedTuple):
    """Size and time of a file, by which a write is detected: it changes at least the time."""

    size: int
    """Size in bytes."""
    time: int
    """Time of the last write, in nanoseconds."""

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Return the stamp in the result of a stat call."""
        return cls(status.st_size, status.st_mtime_ns)


class TextFile:
    """An open file, whose descriptor is closed when the last reference to the object is dropped."""

    def __init__(self, path: str | os.PathLike, stamp: Stamp | None = None):
        """Open the file. `stamp` is the stamp at which its length was taken; None: the present stamp.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = path
        self._descriptor = None  # for __del__, if opening fails
        self._descriptor = os.open(path, os.O_RDONLY)
        self.stamp = Stamp.of(os.fstat(self._descriptor)) if stamp is None else stamp

    def __del__(self, close=os.close):
        # There is no method `close`, because another thread may be reading when a cache drops the file.
        if self._descriptor is not None:
            close(self._descriptor)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return the bytes `begin` to `end`, uint8, shape (end - begin,).

        Raises:
            OSError: the file was written to after its stamp was taken, or cannot be read.
        """
        text = np.empty(end - begin, dtype=np.uint8)
        done = 0
        while done < len(text) and (count := os.preadv(self._descriptor, [text[done:]], begin + done)):
            done += count
        # Checked after reading, so that a write during the read is detected too.
        now = Stamp.of(os.fstat(self._descriptor))
        if now != self.stamp or done < len(text):
            written = f"{self.stamp.size} bytes before, {now.size} now"
            raise OSError(f"it changed while in use: {written if now.size != self.stamp.size else 'written to'}")
        return text

    def digest(self) -> str:
        """Return the SHA-256 of the size and a sample, which identifies a file without reading all of a large one.

        The sample consists of equally spaced blocks, with the first and last bytes; a small file is read completely.

        Raises:
            OSError: the same cases as in `read`; the message names the file.
        """
        size, blocks = self.stamp.size, [(0, self.stamp.size)]
        if size > SAMPLES * SAMPLE_BYTES:
            begins = [i * (size - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)]
            blocks = [(begin, begin + SAMPLE_BYTES) for begin in begins]
        digest = hashlib.sha256(b"%d\n" % size)
        try:
            for block in blocks:
                digest.update(self.read(*block))
        except OSError as error:
            raise OSError(f"{self.path} cannot be read: {error}") from error
        return digest.hexdigest()
