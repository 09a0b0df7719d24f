"""Paths that users give: one place that makes a path from an option."""

import os
import pathlib


def local_path(name: str, value: str | os.PathLike) -> pathlib.Path:
    """The absolute path that the option `name` means by `value`: `~` is the home directory, as in a shell.

    A shell leaves `--workdir=~/run` and quoted values to the program.

    Raises:
      ValueError: the value is empty, a URL, or in the home directory of a user that does not exist.
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
