"""Converts configs, dataclasses of dataclasses, to JSON and back."""

import dataclasses
import importlib


def to_json(config) -> dict:
    """Return a config as JSON. Every dataclass is stored with its type, so that `from_json` can restore it."""
    if dataclasses.is_dataclass(config):
        fields = {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"type": f"{_public_module(type(config))}.{type(config).__qualname__}", **fields}
    if isinstance(config, (tuple, list)):
        return [to_json(item) for item in config]
    return config


def from_json(data):
    """Return the config that `to_json` converted to `data`.

    Raises:
      ValueError: `data` names a class that this version does not have, or fields that the class does not have.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    fields = {name: from_json(value) for name, value in data.items() if name != "type"}
    try:
        return _config_class(*str(data.get("type")).rpartition(".")[::2])(**fields)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"config.json was written by another version: {data.get('type')!r}: {error}") from error


def _public_module(cls):
    """Return the outermost package that exports the class: files may move within it."""
    parts = cls.__module__.split(".")
    modules = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next(name for name in modules if getattr(importlib.import_module(name), cls.__qualname__, None) is cls)


def _config_class(module, name):
    """Return the config class of this name; if the module has moved, the one that its package exports."""
    if not module:
        raise TypeError("there is no such config")
    try:
        cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        if "." not in module:
            raise
        return _config_class(module.rpartition(".")[0], name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):  # only config classes are called
        raise TypeError("there is no such config")
    return cls
