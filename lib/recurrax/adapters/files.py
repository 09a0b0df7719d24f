"""Saves an adapter alone, as one file of its parameters and its config, and loads it again."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from recurrax import checks
from recurrax.adapters.base import Adapter
from recurrax.adapters.initial_state import InitialState
from recurrax.adapters.lora import LoRA
from recurrax.parameters import flat, nested
from recurrax.types import Params

KINDS: dict[str, type[Adapter]] = {kind.__name__: kind for kind in (LoRA, InitialState)}
CONFIG = "config"
"""Name of the entry that is no parameter."""


def save(path: str | os.PathLike, adapter: Adapter, own: Params) -> None:
    """Write the adapter's parameters, the branch "adapter" of a model's, as a NumPy archive; all of it or nothing."""
    path = pathlib.Path(path).expanduser()
    config = {"kind": type(adapter).__name__, "fields": dataclasses.asdict(adapter)}
    checks.choice("adapter", config["kind"], KINDS)
    incomplete = path.with_name(f"{path.name}.incomplete")
    with incomplete.open("wb") as file:
        np.savez(file, **{CONFIG: json.dumps(config)}, **{name: np.asarray(leaf) for name, leaf in flat(own).items()})
    os.replace(incomplete, path)


def load(path: str | os.PathLike) -> tuple[Adapter, Params]:
    """Return the adapter and its parameters.

    Raises:
      ValueError: the file is missing, damaged, or of another kind.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no adapter {path}; a run that trains one writes adapter.npz")
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(str(arrays.pop(CONFIG)))
        kind, fields = config["kind"], config["fields"]
    except Exception as error:  # a zip, NumPy's format and JSON may each be damaged
        raise ValueError(f"{path} is damaged, or no adapter: {type(error).__name__}: {error}") from error
    checks.choice(f"the kind of adapter in {path}", kind, KINDS)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return KINDS[kind](**fields), nested(arrays)
