"""Provides `python_stdlib`, the sources of the interpreter's standard library as a TFDS data set.

It is real text that every machine with Python has, some ten megabytes of code and prose, so that training needs no
download. One document is one `.py` file.
"""

import hashlib
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

# Installed packages are not the standard library; tests, IDLE and the grammar tables of lib2to3 are the parts that some
# distributions leave out.
EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"})
VALIDATION_SLICES = 20  # one slice in twenty of the paths is held out


def source_paths(root: Path) -> list[str]:
    """Return the paths, relative to `root`, of all non-empty `*.py` files outside `EXCLUDED_FOLDERS`, sorted."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in EXCLUDED_FOLDERS]
        for name in files:
            path = Path(folder, name)
            if path.suffix == ".py" and path.is_file() and path.stat().st_size:
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def split_of(relative_path: str) -> str:
    """Return the split of a file, a function of its path alone: no file changes its split when others are added."""
    digest = hashlib.sha256(relative_path.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") % VALIDATION_SLICES == 0 else "train"


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of `python_stdlib`; features `text` (the file's bytes as they are) and `path`.

    Raises:
        ValueError: there are no sources to read (some interpreters keep their standard library in a zip file).
    """

    VERSION = tfds.core.Version("1.0.0")
    # The interpreter is part of the name of what is prepared, so that a run never meets the text of another Python.
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name=f"{sys.implementation.name}-{platform.python_version()}",
            description=f"The standard library of {platform.python_implementation()} {platform.python_version()}.",
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The sources of the Python standard library, one document per file.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "path": tfds.features.Text()}),
            homepage="https://docs.python.org/3/library/",
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # nothing is downloaded
        root = Path(sysconfig.get_paths()["stdlib"])
        paths = source_paths(root)
        if not paths:
            raise ValueError(f"an empty data set: no standard-library sources (*.py) under {root}")
        return {
            split: self._generate_examples(root, [path for path in paths if split_of(path) == split])
            for split in ("train", "validation")
        }

    def _generate_examples(self, root: Path, paths: list[str]) -> Iterator[tuple[str, dict]]:
        for path in paths:
            yield path, {"text": (root / path).read_bytes(), "path": path}
