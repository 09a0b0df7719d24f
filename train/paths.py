"""Provides `local_path`, which makes a path from the value of an option."""

import os
import pathlib


def local_path(name: str, value: str | os.PathLike) -> pathlib.Path:
    """Return the absolute path of the option `name` with this value, with `~` expanded as in a shell.

    A shell does not expand `--workdir=~/run` and quoted values.

    Raises:
      ValueError: the value is empty, a URL, or in the home directory of a user who does not exist.
    """
    text = os.fspath(value)
    if not text:
        raise ValueError(f"{name} is empty; give a path")
    if "://" in text:
        raise ValueError(f"{name}={text!r} is a URL; give a path of this machine (a mounted bucket has one)")
    try:
        return pathlib.Path(os.path.abspath(pathlib.Path(text).expanduser()))
    except RuntimeError as error:
        raise ValueError(f"{name}={text!r}: {error}") from error
