"""Provides the text of a prepared TFDS data set as documents, with random access and without TensorFlow."""

import collections
import difflib
import importlib
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from train.data import python_stdlib  # noqa: F401  registers the builder
from train.data.bad_record import BadRecords
from train.data.prepare import prepare
from train.data.single_document import SingleDocument, part_of_document, validation_count
from train.paths import local_path

CACHE_BYTES = 1 << 30  # of decoded texts: a smaller corpus is decoded once
CACHE_ENTRY_BYTES = 256  # overhead of an entry besides its text
KEEP_LENGTHS_FROM = 100_000  # documents; measuring fewer takes about a second, and is repeated each time
RECORDS_PER_READ = 4096
UNREADABLE = (RuntimeError, OSError)  # for example a wrong checksum or a failed disk


class TfdsText:
    """Documents `start` to `stop` of a TFDS split, from its ArrayRecord files."""

    def __init__(
        self, builder: tfds.core.DatasetBuilder, tfds_split: str, start: int, stop: int, feature: str, bad: BadRecords
    ):
        self.name = f"{builder.info.full_name}:{tfds_split}[{start}:{stop}]"
        # Records are read raw and only the text is parsed: decoding every feature would dominate the cost.
        self._records = builder.as_data_source(
            tfds_split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES, file_format="array_record"
        )
        self._feature = feature
        self._identity = {"dataset": builder.info.full_name, "bytes": int(builder.info.splits[tfds_split].num_bytes)}
        self._files = builder.info.splits[tfds_split]
        self._bad = bad
        self._start, self._stop = start, stop
        self._lengths_file = Path(builder.data_dir) / f"lengths-{tfds_split}-{feature}.npy"
        self._cache = collections.OrderedDict()
        self._cache_bytes = 0
        self._lock = threading.Lock()  # a prefetch thread reads concurrently with the main thread

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        return self._keep(index, self._text(self._start + int(index)))

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Decode these documents together: reading one record alone takes ten times as long as one of a hundred."""
        with self._lock:
            missing = [int(index) for index in indices if index not in self._cache]
        if missing:
            texts = self._texts([self._start + index for index in missing])
            for index, text in zip(missing, texts, strict=True):
                self._keep(index, text)

    def _keep(self, index: int, text: bytes) -> np.ndarray:
        text = np.frombuffer(text, dtype=np.uint8)
        with self._lock:
            if index not in self._cache:
                self._cache[index] = text
                self._cache_bytes += len(text) + CACHE_ENTRY_BYTES
            while self._cache_bytes > CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cache_bytes -= len(oldest) + CACHE_ENTRY_BYTES
        return text

    def lengths(self) -> np.ndarray:
        """Return the bytes of every document, measured in one pass, and stored on disk for large data sets."""
        total = len(self._records)
        lengths = self._kept_lengths(total)
        if lengths is None:
            lengths = np.empty(total, dtype=np.int64)
            if total >= KEEP_LENGTHS_FROM:
                print(f"Measuring {total:,} documents of {self.name}, once ...", flush=True)
            for begin in range(0, total, RECORDS_PER_READ):
                keys = range(begin, min(begin + RECORDS_PER_READ, total))
                lengths[keys.start : keys.stop] = [len(text) for text in self._texts(keys)]
            if total >= KEEP_LENGTHS_FROM:
                self._keep_lengths(lengths)
        return lengths[self._start : self._stop]

    def identity(self) -> dict:
        return {**self._identity, "documents": len(self._records)}

    def stamp(self) -> str:
        return ""

    def _texts(self, numbers: Sequence[int]) -> list[bytes]:
        try:
            return [self._parse(record) for record in self._records.__getitems__(numbers)]
        except UNREADABLE:
            return [self._text(number) for number in numbers]  # one by one, to find the unreadable record

    def _text(self, number: int) -> bytes:
        try:
            return self._parse(self._records[number])
        except UNREADABLE as error:
            ends = np.cumsum(self._files.shard_lengths)
            file = int(np.searchsorted(ends, number, side="right"))
            within = number - int(ends[file - 1] if file else 0)
            return self._bad.met(self._files.filepaths[file], within, error, of=len(self._records))

    def _parse(self, record: bytes) -> bytes:
        values = tf_example_pb2.Example.FromString(record).features.feature[self._feature].bytes_list.value
        if not values:  # array_record returns no bytes past the end of a file, without an error
            raise OSError("it has no text; was the file cut short?")
        return values[0]

    def _kept_lengths(self, total: int) -> np.ndarray | None:
        if not self._lengths_file.exists():
            return None
        try:
            lengths = np.load(self._lengths_file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self._lengths_file} is damaged: {error}; remove it to measure again") from error
        return lengths if lengths.shape == (total,) else None

    def _keep_lengths(self, lengths: np.ndarray) -> None:
        folder = self._lengths_file.parent
        if not os.access(folder, os.W_OK):
            return  # data prepared by another user: lengths are measured each time
        # Renamed into place when complete: a killed process leaves a temporary file, never a truncated result.
        with tempfile.NamedTemporaryFile(dir=folder, prefix="lengths-", suffix=".incomplete", delete=False) as file:
            np.save(file, lengths)
        os.chmod(file.name, 0o644)  # as readable as the data beside it
        os.replace(file.name, self._lengths_file)


def open_tfds_text(
    name: str, data_dir: str | None, validation_fraction: float, split: str, bad: BadRecords
) -> TfdsText | SingleDocument:
    """Return the documents of one split of the TFDS data set `name`, downloaded and prepared if necessary.

    "validation" is the data set's validation split; without one, its test split; without either, the last
    `validation_fraction` of the train split's documents (of the bytes, if it is one document), which "train" excludes.

    Raises:
        ValueError: no data set has this name, or the data set has no text feature, no train split, or no documents.
    """
    builder = find_builder(name, data_dir)
    feature = text_feature(name, builder.info.features)
    prepare(builder)
    builder = find_builder(name, data_dir)  # made again, to find the files, which another process may have written
    ranges = split_ranges(name, builder, validation_fraction)
    if split not in ranges:
        total = builder.info.splits["train"].num_examples
        whole = TfdsText(builder, "train", 0, total, feature, bad)
        if not total:
            raise ValueError(f"an empty data set: {whole.name} has no documents")
        begin, end = part_of_document(whole.name, len(whole[0]), validation_fraction, split)
        return SingleDocument(f"{whole.name}:{split}", whole[0][begin:end], whole.identity())
    return TfdsText(builder, *ranges[split], feature, bad)


def split_ranges(
    name: str, builder: tfds.core.DatasetBuilder, validation_fraction: float
) -> dict[str, tuple[str, int, int]]:
    """Return the TFDS split, and the first and last record in it, of "train" and of "validation".

    There are none if the records are fewer than two and all in one split.

    Raises:
        ValueError: the data set has no train split.
    """
    counts = {key: info.num_examples for key, info in builder.info.splits.items()}
    if "train" not in counts:
        raise ValueError(f"dataset={name!r} has no train split; it has {', '.join(counts)}")
    total = counts["train"]
    held_out = next((key for key in ("validation", "test") if key in counts), None)
    if held_out is not None:
        return {"train": ("train", 0, total), "validation": (held_out, 0, counts[held_out])}
    if total < 2:
        return {}
    cut = total - validation_count(total, validation_fraction)
    return {"train": ("train", 0, cut), "validation": ("train", cut, total)}


def data_root(data_dir: str | None) -> Path:
    """Return the directory of prepared data: `data_dir`, or that of TFDS."""
    return local_path("data.data_dir", tfds.core.constants.DATA_DIR if data_dir is None else data_dir)


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Return the TFDS builder of `name` ("name", "name/config" or "name:version").

    Raises:
        ValueError: no data set has this name; the message lists the closest ones.
    """
    # TFDS stops registering its older data sets at the first whose packages are missing, often before those of text.
    importlib.import_module("tensorflow_datasets.text")
    try:
        # URLs of buckets are left to TFDS.
        is_local = data_dir is not None and "://" not in data_dir
        return tfds.builder(name, data_dir=str(local_path("data.data_dir", data_dir)) if is_local else data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        base = name.split("/")[0].split(":")[0]
        close = difflib.get_close_matches(base, known, n=5, cutoff=0.4) or ["python_stdlib"]
        raise ValueError(f"dataset={name!r}: no TFDS data set has this name; closest: {', '.join(close)}") from error


def text_feature(name: str, features: tfds.features.FeatureConnector) -> str:
    """Return the key of the only `Text` feature, or "text" if a `Text` feature has this key.

    Raises:
        ValueError: there is no such feature, or there are several; the message lists all features.
    """
    keys = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    texts = [key for key, feature in keys.items() if isinstance(feature, tfds.features.Text)]
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in keys.items()) or repr(features)
    expected = 'expected one Text feature, or one called "text"'
    raise ValueError(f"dataset={name!r} is no text data set: {expected}; its features: {listed}")
