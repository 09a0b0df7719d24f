"""What the command lines of `train` and `eval` share: errors of the user, and output that survives its destination."""

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
    """Prints errors that this repository itself raises about its input, and exits: 2 for input, 1 for a failed run.

    Errors from inside the libraries, and any other kind, keep their traceback: those are ours to mend.
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
    """Lets a program print any text to any terminal, file or pipe.

    Characters that the encoding of the output lacks (PYTHONIOENCODING=ascii, cp1252), and names of files that are not
    text, are written with escapes, as on stderr. A reader that goes away, as `head` does, ends the program without a
    message, with exit code 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where the exception can still be caught, not when the interpreter ends
    except BrokenPipeError:
        # What is still in the buffer has to go somewhere when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
