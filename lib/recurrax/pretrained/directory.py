"""Reads and writes the files of a published checkpoint: config.json, and one or several safetensors files."""

import contextlib
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
QUANTISERS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files written by tools that quantise a checkpoint without a note in its config.json."""
NUMBERS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Tensors:
    """The tensors of a directory, each of which is read on access.

    Raises:
      ValueError: there are no files; a file is missing, damaged, or holds a tensor that another file also holds.
    """

    def __init__(self, directory: pathlib.Path):
        safe_open = _safetensors().safe_open
        self.directory = directory
        index = directory / INDEX
        if index.exists():
            where = read_json(index).get("weight_map")
            if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
                raise ValueError(f"{index}: weight_map is no object of file names")
            names = sorted(set(where.values()))
        elif (directory / SINGLE).exists():
            where, names = None, [SINGLE]
        else:
            raise ValueError(f"{directory} has neither {SINGLE} nor {INDEX}")
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise ValueError(f"{index} names files that are not there: {', '.join(missing)}")
        self._files, self.shapes, self.dtypes = {}, {}, {}
        for name in names:
            try:
                file = safe_open(directory / name, "np")
            except Exception as error:
                raise ValueError(f"{directory / name} is damaged, or no safetensors file: {error}") from error
            for key in sorted(file.keys()):
                if key in self._files:
                    raise ValueError(f"{key} is in {name} and in another file of {directory}")
                part = file.get_slice(key)
                self._files[key], self.shapes[key], self.dtypes[key] = file, tuple(part.get_shape()), part.get_dtype()
        if where is not None and set(where) != set(self.shapes):
            odd = sorted(set(where) ^ set(self.shapes))
            raise ValueError(f"{index} and the files that it names differ in their tensors: {', '.join(odd)}")

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a tensor, in float64 if stored so, else in float32. Raises ValueError for a dtype not in `DTYPES`."""
        if self.dtypes[name] not in DTYPES:
            raise ValueError(f"{name} is {self.dtypes[name]}; numbers are read from {', '.join(DTYPES)}")
        array = self._files[name].get_tensor(name)
        return array if array.dtype == np.float64 else array.astype(np.float32)


def read_config(directory: pathlib.Path) -> dict[str, Any]:
    """Return the fields of config.json.

    Raises:
      ValueError: the file is missing or does not hold a JSON object, or a quantiser's config is beside it.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} has no config.json: it is no directory of a published checkpoint")
    for name in QUANTISERS:
        if (directory / name).exists():
            raise ValueError(f"{directory / name} says that the tensors are quantised; only numbers are read")
    return read_json(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Return the object in a file. Raises ValueError if the file does not hold a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_hook=_number)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where a JSON object should be")
    return value


def _number(value):
    """Return the infinity or NaN that transformers 5 writes as an object, as a float; other objects as they are."""
    tag = value.get("__float__") if len(value) == 1 else None
    return NUMBERS.get(tag, value) if isinstance(tag, str) else value


def write(
    directory: pathlib.Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    tensor: Callable[[Sequence[str]], Mapping[str, np.ndarray]],
    shard_bytes: int,
) -> None:
    """Write a checkpoint's directory atomically.

    Args:
      directory: directory to write.
      config: fields of config.json.
      shapes: name -> shape of every tensor.
      tensor: function from names to arrays, called once per file, so that only one file's arrays are in memory.
      shard_bytes: maximal size of a file; a larger tensor gets a file of its own.

    Raises:
      ValueError: the directory is a file, or exists and is not empty.
    """
    # A link is followed, so that renaming at the end does not replace it.
    directory = directory.resolve()
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; a checkpoint is a directory")
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty; nothing is written over")
    save_file = _safetensors().numpy.save_file
    with _made_whole(directory) as folder:
        shards = list(_shards(shapes, shard_bytes))
        where = {}
        for i, names in enumerate(shards):
            file = SINGLE if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            arrays = {name: np.ascontiguousarray(array) for name, array in tensor(names).items()}
            save_file(arrays, folder / file, {"format": "pt"})
            where |= dict.fromkeys(names, file)
        if len(shards) > 1:
            total = sum(shape.size * shape.dtype.itemsize for shape in shapes.values())
            index = {"metadata": {"total_size": total}, "weight_map": where}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _shards(shapes, shard_bytes) -> Iterator[list[str]]:
    """Yield lists of names, in order; the tensors of a list have at most `shard_bytes`, unless it is a single one."""
    names, size = [], 0
    for name, shape in shapes.items():
        more = shape.size * shape.dtype.itemsize
        if names and size + more > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


@contextlib.contextmanager
def _made_whole(directory):
    """Yield a temporary folder beside the directory, which replaces it at the end and is removed on failure."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        folder.rename(directory)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _safetensors():
    """Return the package safetensors. Raises ImportError if it is not installed."""
    try:
        import safetensors.numpy
    except ImportError as error:
        message = "published checkpoints need the package safetensors: pip install 'recurrax[pretrained]'"
        raise ImportError(message) from error
    return safetensors
