"""A record that cannot be read: named with its file and number, and either the end of the run or left out."""

import threading


class BadRecordError(RuntimeError):
    """A record cannot be read; the message names its file and its number in it, from 0 on."""


class BadRecords:
    """What becomes of the bad records of a corpus. `skip`: they are documents without a byte, and each is said once."""

    def __init__(self, skip: bool):
        self._skip = skip
        self._said: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def met(self, file, number: int, why: object, of: int) -> bytes:
        """The bytes to go on with in the record's place: none. `of`: how many records there are.

        Raises:
            BadRecordError: bad records are not to be skipped, or no good one is left.
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
