"""Handles records that cannot be read, which are named with their file and number: they end the run or are skipped."""

import threading


class BadRecordError(RuntimeError):
    """Raised if a record cannot be read; the message names its file and its number in the file, from 0."""


class BadRecords:
    """Handler of a corpus' bad records. With `skip` they become empty documents, each of which is reported once."""

    def __init__(self, skip: bool):
        self._skip = skip
        self._said: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def met(self, file, number: int, why: object, of: int) -> bytes:
        """Return empty bytes in place of the record. `of` is the total number of records.

        Raises:
            BadRecordError: bad records are not skipped, or no readable one is left.
        """
        message = f"record {number} of {file} cannot be read: {why}"
        if not self._skip:
            raise BadRecordError(f"{message}. --data.on_bad_record skip goes on without it")
        with self._lock:
            record = str(file), number
            if record not in self._said:
                self._said.add(record)
                print(f"warning: {message}. It is left out ({len(self._said)} so far)", flush=True)
            if len(self._said) == of:
                raise BadRecordError(f"{message}. None of the {of} records is left")
        return b""
