"""Fixtures of published checkpoints, as they are and changed."""

import json
import pathlib
import shutil

import safetensors.numpy
from safetensors import safe_open

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "pretrained"


def tensors(folder):
    """Return every tensor of a checkpoint, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def config_of(folder):
    """Return what config.json says."""
    return json.loads((folder / "config.json").read_text())


def change(folder, *without, **fields):
    """Take the fields of the names `without` away from config.json, and then set the others."""
    kept = {name: value for name, value in config_of(folder).items() if name not in without}
    (folder / "config.json").write_text(json.dumps({**kept, **fields}))


def copied(family, folder):
    """Return a copy of a family's fixture in that folder, with all tensors in one file."""
    copy = pathlib.Path(shutil.copytree(FIXTURES / family, folder / family))
    found = tensors(copy)
    for path in (*copy.glob("*.safetensors"), *copy.glob("*.index.json")):
        path.unlink()
    store(copy, found)
    return copy


def store(folder, arrays):
    """Write the tensors of a checkpoint into one file."""
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", {"format": "pt"})
