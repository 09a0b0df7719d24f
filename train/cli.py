"""Provides error handling and robust output for the command lines of `train` and `eval`."""

import contextlib
import io
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Print errors that this repository raises about its input without a traceback, and exit.

    The exit code is 2 for invalid input and 1 for a failed run. Errors raised inside other libraries, and errors of any
    other type, keep their traceback, because they are bugs of this repository.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # an OSError, but not one about the input
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        if not any(raised_in.is_relative_to(ROOT / part) for part in ("train", "eval", "lib")):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, (FloatingPointError, RuntimeError)) else 2)


@contextlib.contextmanager
def robust_output() -> Iterator[None]:
    """Make standard output accept any text on any terminal, file or pipe.

    Characters that the encoding of the output lacks (PYTHONIOENCODING=ascii, cp1252), and file names that are not
    valid text, are written with escapes, as on stderr. If the reader closes the pipe, as `head` does, the program exits
    with code 1 and without a message.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here the exception can be caught; at interpreter exit it could not
    except BrokenPipeError:
        # The interpreter flushes the rest of the buffer at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
