"""What the command lines of `train` and `eval` share: mistakes end in a message, not in a traceback."""

import contextlib
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
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        if not any(raised_in.is_relative_to(ROOT / part) for part in ("train", "eval", "lib")):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, (FloatingPointError, RuntimeError)) else 2)
