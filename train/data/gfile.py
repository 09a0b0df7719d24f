"""Provides `tf.io.gfile` over the local file system, for TFDS's own download and builder code.

TFDS reads and writes ArrayRecord files without TensorFlow, but its shuffler and extractor, and builders such as
`tiny_shakespeare` and `lm1b`, open ordinary files by `tf.io.gfile`. All of them reach TensorFlow through one lazily
imported module object; while `local_gfile` is active, `io`, `compat` and `errors` are found on that object itself and
nothing is imported. Whatever else a builder wants of TensorFlow still raises ModuleNotFoundError.
"""

import contextlib
import glob
import os
import resource
import shutil
from collections.abc import Iterator
from types import SimpleNamespace

from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy_tensorflow

OPEN_FILES = 4096  # the shuffler of a data set above 1 GB writes 1000 files at once; a usual soft limit is 1024


class TensorFlowError(Exception):
    """Stands for the `tf.errors` that TFDS catches; nothing here raises it."""


@contextlib.contextmanager
def local_gfile() -> Iterator[None]:
    """Answers `tf.io.gfile`, `tf.compat` and `tf.errors` without TensorFlow while TFDS prepares a data set."""
    gfile = SimpleNamespace(
        GFile=_open,
        Open=_open,
        copy=_copy,
        exists=os.path.exists,
        glob=_glob,
        isdir=os.path.isdir,
        listdir=os.listdir,
        makedirs=lambda path: os.makedirs(path, exist_ok=True),
        mkdir=os.mkdir,
        remove=os.remove,
        rename=_rename,
        rmtree=shutil.rmtree,
        stat=os.stat,
        walk=os.walk,
    )
    names = {
        "io": SimpleNamespace(gfile=gfile),
        "compat": SimpleNamespace(as_text=_as_text, as_str=_as_text, as_str_any=_as_text, as_bytes=_as_bytes),
        "errors": SimpleNamespace(
            **{
                name: TensorFlowError
                for name in (
                    "AbortedError",
                    "FailedPreconditionError",
                    "NotFoundError",
                    "PermissionDeniedError",
                    "ResourceExhaustedError",
                    "UnimplementedError",
                )
            }
        ),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    attributes = vars(lazy_tensorflow)
    attributes.update(names)
    try:
        yield
    finally:
        for name in names:
            del attributes[name]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open(name, mode: str = "r"):
    # As TensorFlow does: text is UTF-8, lines end at "\n", and no character is translated.
    return open(name, mode) if "b" in mode else open(name, mode, encoding="utf-8", newline="\n")


def _glob(pattern) -> list[str]:
    patterns = pattern if isinstance(pattern, (list, tuple)) else [pattern]
    return sorted(path for one in patterns for path in glob.glob(os.fspath(one)))


def _copy(source, target, overwrite: bool = False) -> None:
    if not overwrite and os.path.exists(target):
        raise FileExistsError(os.fspath(target))
    shutil.copyfile(source, target)


def _rename(source, target, overwrite: bool = False) -> None:
    if not overwrite and os.path.exists(target):
        raise FileExistsError(os.fspath(target))
    os.replace(source, target)


def _as_text(value) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _as_bytes(value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8")
