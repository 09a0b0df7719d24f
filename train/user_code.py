"""Finds a function of the user's own by the name FILE.py:FUNCTION or MODULE:FUNCTION."""

import importlib
import pathlib
import sys
from collections.abc import Callable

from recurrax import checks


def find_function(name: str, what: str) -> Callable:
    """Return the function; its file's folder, or the present one, becomes a place to import from, as for a script.

    Args:
      what: what the function is for, for messages.

    Raises:
      ValueError: the file, the module or its function is missing.
    """
    place, separator, function = name.rpartition(":")
    if not (separator and place and function):
        raise ValueError(f"{what} must be FILE.py:FUNCTION or MODULE:FUNCTION, got {name!r}")
    module = _from_file(place, name, what) if place.endswith(".py") else _module(place, name, what)
    found = getattr(module, function, None)
    if not callable(found):
        own = [key for key, each in vars(module).items() if callable(each) and _is_of(each, module)]
        raise ValueError(
            f"{module.__file__} has no function {function!r}{checks.hint(function, own)}; it has {', '.join(own)}"
        )
    return found


def _from_file(place, name, what):
    path = pathlib.Path(place).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"{what} {name} is in no file: {path} does not exist")
    _import_from(path.parent)
    module = importlib.import_module(path.stem)
    if pathlib.Path(module.__file__ or "").resolve() != path:
        raise ValueError(f"{path} has the name of another module, {module.__name__}: rename the file")
    return module


def _module(place, name, what):
    _import_from(pathlib.Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ValueError(f"{what} {name} is in no module: {error}") from error


def _import_from(folder: pathlib.Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _is_of(value, module) -> bool:
    return getattr(value, "__module__", None) == module.__name__
