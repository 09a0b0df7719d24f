"""Prepares a TFDS data set on first use: once, completely or not at all, and without TensorFlow."""

import contextlib
import fcntl
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from train.data.gfile import local_gfile


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Download and prepare `builder`'s data as ArrayRecord files, unless they exist.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so a kill leaves nothing that looks prepared. A
    second process waits for the first and uses its data; a builder that was created before does not know the files.

    Raises:
        ModuleNotFoundError: the data set's own TFDS code needs a package that is not installed.
        Exception: any exception of a download, unchanged.
    """
    if _is_prepared(builder):
        return
    with one_at_a_time(Path(builder.data_dir_root) / f".{builder.name}.lock"):
        if not _is_prepared(builder):
            print(f"Preparing {builder.name} in {builder.data_dir} ...", flush=True)
            try:
                _generate(builder)
            except OSError:
                # Where locks do not reach other hosts, another host's folder may have been renamed into place first.
                if not _is_prepared(builder):
                    raise


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # The same question as builder.is_prepared(), which warns when the answer is no.
    return (builder.data_path / "dataset_info.json").exists()


def _generate(builder: tfds.core.DatasetBuilder) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)  # the bucket has TFRecord files only
    try:
        with _quiet(), local_gfile():
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except ModuleNotFoundError as error:
        command = f"tfds build {builder.name} --file_format=array_record --data_dir={builder.data_dir_root}"
        raise ModuleNotFoundError(
            f"the TFDS code that prepares {builder.name!r} needs the package {error.name!r}: prepare the data where "
            f"that is installed, with `{command}`; reading it afterwards does not need it",
            name=error.name,
        ) from error


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases when the process ends, even by a kill."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress TFDS's announcements, and its progress bars where stderr is not a terminal."""
    if sys.stderr.isatty():
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        return
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
