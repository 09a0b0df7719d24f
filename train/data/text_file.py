"""A text file that is read while other programs may write to it.

Read by `preadv` on an open descriptor, never through a memory map: where a mapped file is cut short, or its disk
fails, the next look at the lost bytes ends the process with SIGBUS, and nothing can be said or saved. A read of a
descriptor returns fewer bytes, or an error. Replacing or deleting the file does no harm: a descriptor keeps the file
that it was opened on.
"""

import hashlib
import os
from typing import NamedTuple

import numpy as np

SAMPLES = 16
SAMPLE_BYTES = 4096  # a file of at most 16 * 4096 bytes is sampled whole


class Stamp(NamedTuple):
    """What tells that a file was written to: any write changes its time, if not its size."""

    size: int
    """Bytes."""
    time: int
    """Of the last write, in nanoseconds."""

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp in the answer of a stat call."""
        return cls(status.st_size, status.st_mtime_ns)


class TextFile:
    """An open file; its descriptor is closed when the last reference to the object is gone."""

    def __init__(self, path: str | os.PathLike, stamp: Stamp | None = None):
        """`stamp`: that of the file when its length was taken; None: the file's stamp now.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = path
        self._descriptor = None  # where opening fails
        self._descriptor = os.open(path, os.O_RDONLY)
        self.stamp = Stamp.of(os.fstat(self._descriptor)) if stamp is None else stamp

    def __del__(self, close=os.close):
        # There is no method `close`: another thread may be reading when a cache drops the file.
        if self._descriptor is not None:
            close(self._descriptor)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The bytes `begin` to `end`, uint8, shape (end - begin,).

        Raises:
            OSError: the file was written to since its stamp was taken, or cannot be read.
        """
        text = np.empty(end - begin, dtype=np.uint8)
        done = 0
        while done < len(text) and (count := os.preadv(self._descriptor, [text[done:]], begin + done)):
            done += count
        # After reading: what was written meanwhile is noticed too.
        now = Stamp.of(os.fstat(self._descriptor))
        if now != self.stamp or done < len(text):
            written = f"{self.stamp.size} bytes before, {now.size} now"
            raise OSError(f"it changed while in use: {written if now.size != self.stamp.size else 'written to'}")
        return text

    def digest(self) -> str:
        """SHA-256 of the size and of a sample: it tells files apart without reading all of a large one.

        The sample is equally spaced blocks, the first and the last bytes among them; a small file is sampled whole.

        Raises:
            OSError: as `read`; the message names the file.
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
