"""Reads the files of a published checkpoint that concern text: tokenizer.json, config.json, generation_config.json."""

import json
import pathlib
from typing import Any


def open_tokenizer(directory: pathlib.Path):
    """Return the directory's tokenizer, set up to be deterministic and to encode a text completely.

    tokenizer.json may also hold truncation, padding and dropout of merges. They are switched off: they belong to the
    program that saved the file (transformers#24441), and would silently truncate texts or segment them at random.

    Raises:
      ValueError: there is no tokenizer.json, or the package tokenizers cannot read it.
      ImportError: the package tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        message = "tokenizer.json needs the package tokenizers: pip install 'recurrax[pretrained]'"
        raise ImportError(message) from error
    path = directory / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{directory} has no tokenizer.json; text cannot be read or written without one")
    settings = _read_object(path) | {"truncation": None, "padding": None}
    try:
        settings["model"].pop("dropout", None)
        return tokenizers.Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # the package raises no more specific type
        raise ValueError(f"the package tokenizers cannot read {path}: {error}") from error


def special_ids(directory: pathlib.Path, vocabulary: frozenset[int]) -> tuple[int, frozenset[int]]:
    """Return the token that opens a document, and all tokens that close one.

    eos_token_id is a token or a list of them. config.json and generation_config.json may name different ones; each
    closes a document. Without bos_token_id, the first eos_token_id opens a document.

    Raises:
      ValueError: no token opens a document, or a token is not in the vocabulary.
    """
    files = [directory / "config.json"]
    if (directory / "generation_config.json").exists():
        files.append(directory / "generation_config.json")
    named: dict[str, list[int]] = {"bos_token_id": [], "eos_token_id": []}
    for path in files:
        fields = _read_object(path)
        for name, found in named.items():
            value = fields.get(name)
            values = value if isinstance(value, list) else [] if value is None else [value]
            for token in values:
                if type(token) is not int or token not in vocabulary:
                    raise ValueError(f"{path}: {name} {token!r} is not the id of a token of tokenizer.json")
            found.extend(values)
    starts = named["bos_token_id"] or named["eos_token_id"]
    if not starts:
        raise ValueError(f"{files[0]} names no token to open a document with: bos_token_id, eos_token_id")
    return starts[0], frozenset(named["eos_token_id"])


def closing_id(directory: pathlib.Path) -> int | None:
    """Return the token that closes a document, the first eos_token_id of config.json; None if it names none."""
    value = _read_object(directory / "config.json").get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return values[0] if values else None


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ValueError if the file is missing or does not hold a JSON object."""
    if not path.exists():
        raise ValueError(f"{path.parent} has no {path.name}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(fields).__name__}")
    return fields
