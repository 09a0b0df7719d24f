"""Tokenizes a text once, on all cores, into ArrayRecord files of tokens, and reads documents of tokens from them.

The files are in a folder `tokens/` beside the data sets of TFDS, under a name made from the text, the split and the
tokenizer. Documents are divided into shards, each of which is renamed into place when it is complete, so a call that
was killed is taken up again at its first missing shard. A record holds up to RECORD_TOKENS tokens of one document and,
for each, the bytes of text that it stands for; so bits per byte are exact for every tokenizer.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module

from recurrax.pretrained import Tokenizer
from train.data.prepare import one_at_a_time
from train.paths import local_path

FORMAT = 1
"""Version of the files; part of their names."""
RECORD_TOKENS = 16_384
SHARD_BYTES = 1 << 26
"""Bytes of text from which a shard is complete."""
BATCH_BYTES = 1 << 22
"""Bytes of text that are encoded together."""
PIECE_BYTES = 1 << 22
"""Bytes from which a document is encoded in pieces, cut after a line: memory stays small for a text of any size."""
CACHED_RECORDS = 2048


@functools.lru_cache(maxsize=4)
def tokenizer_in(directory: str) -> Tokenizer:
    """Return the tokenizer of a directory, which is read once per process."""
    return Tokenizer(local_path("data.tokenizer", directory))


class TokenDocuments:
    """Documents of tokens, from the files of one text."""

    def __init__(self, name: str, shards: list[pathlib.Path], start: int, identity: dict):
        self.name = name
        self.start = start
        """The token that opens each document."""
        found = [np.load(_lengths_file(shard)) for shard in shards]
        self._lengths = np.concatenate([each["tokens"] for each in found])
        self.total_bytes = int(sum(each["bytes"].sum() for each in found))
        self.num_undecodable = int(sum(each["undecodable"] for each in found))
        """Number of documents that are not UTF-8."""
        self.num_changed = int(sum(each["changed"] for each in found))
        """Number of UTF-8 documents whose tokens decode to another text."""
        self._identity = identity
        records = -(-self._lengths // RECORD_TOKENS)
        self._first_record = np.concatenate([[0], np.cumsum(records)])
        documents = np.cumsum([0, *(len(each["tokens"]) for each in found)])
        self._shard_starts = self._first_record[documents]
        self._shards = [str(shard) for shard in shards]
        self._reader = functools.lru_cache(maxsize=64)(self._open)
        self._record = functools.lru_cache(maxsize=CACHED_RECORDS)(self._read)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.span(index, 0, int(self._lengths[index]))

    def lengths(self) -> np.ndarray:
        return self._lengths

    def span(self, index: int, begin: int, end: int) -> np.ndarray:
        return self._part(index, begin, end)[0]

    def num_bytes(self, index: int, begin: int, end: int) -> np.ndarray:
        return self._part(index, begin, end)[1]

    def identity(self) -> dict:
        return self._identity

    def _part(self, index, begin, end) -> np.ndarray:
        first, last = begin // RECORD_TOKENS, -(-end // RECORD_TOKENS)
        records = [self._record(int(self._first_record[index]) + i) for i in range(first, last)]
        whole = np.concatenate([np.zeros((2, 0), np.int32), *records], axis=1)
        return whole[:, begin - first * RECORD_TOKENS : end - first * RECORD_TOKENS]

    def _open(self, shard: int):
        # Without a cache of its own: read-ahead would decode records that are not asked for.
        return array_record_module.ArrayRecordReader(self._shards[shard], "readahead_buffer_size:0")

    def _read(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self._shard_starts, number, side="right") - 1)
        (record,) = self._reader(shard).read([number - int(self._shard_starts[shard])])
        return np.frombuffer(record, np.int32).reshape(2, -1)


def tokenized(documents, tokenizer: Tokenizer, root: pathlib.Path, closed: bool) -> TokenDocuments:
    """Return documents of bytes as documents of tokens, which are made unless they exist.

    A document ends with the tokenizer's closing token if it has one and `closed` is true.
    """
    end = tokenizer.end if closed else None
    text = [FORMAT, documents.name, documents.identity(), documents.stamp(), tokenizer.digest, end]
    key = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / "tokens" / f"{re.sub(r'[^A-Za-z0-9]+', '-', documents.name)[-60:].strip('-')}-{key}"
    shards = list(_shards(documents))
    files = [folder / f"{i:05d}-of-{len(shards):05d}.array_record" for i in range(len(shards))]
    if not all(map(_is_complete, files)):
        with one_at_a_time(folder / ".lock"):
            missing = [i for i, file in enumerate(files) if not _is_complete(file)]
            if missing:
                print(
                    f"Tokenizing {documents.name} into {folder}, {len(missing)} of {len(files)} files ...", flush=True
                )
            for i in missing:
                _write(files[i], (documents[k] for k in shards[i]), tokenizer, end)
    identity = {**documents.identity(), "tokenizer": tokenizer.digest}
    return TokenDocuments(documents.name, files, tokenizer.start, identity)


def _shards(documents) -> Iterator[range]:
    """Yield ranges of documents of SHARD_BYTES or, for the last, less."""
    ends = np.cumsum(documents.lengths())
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = min(int(np.searchsorted(ends, before + SHARD_BYTES)) + 1, len(ends))
        yield range(first, last)
        first = last


def _is_complete(file: pathlib.Path) -> bool:
    return _lengths_file(file).exists()  # it is written last


def _lengths_file(file: pathlib.Path) -> pathlib.Path:
    return file.with_suffix(".npz")


def _write(file: pathlib.Path, texts: Iterator[np.ndarray], tokenizer: Tokenizer, end: int | None) -> None:
    """Write the tokens of these documents and, last, their lengths."""
    incomplete = file.with_suffix(".incomplete")
    writer = array_record_module.ArrayRecordWriter(str(incomplete), "group_size:1")
    tokens, sizes, undecodable, changed = [], [], 0, 0
    for text, pieces in _encoded(texts, tokenizer):
        closing = [[end], [0]] if end is not None else np.zeros((2, 0))
        both = [np.stack([piece.tokens, piece.num_bytes]) for piece in pieces]
        document = np.concatenate([np.zeros((2, 0)), *both, closing], axis=1).astype(np.int32)
        for begin in range(0, document.shape[1], RECORD_TOKENS):
            writer.write(document[:, begin : begin + RECORD_TOKENS].tobytes())
        tokens.append(document.shape[1])
        sizes.append(len(text))
        is_utf8 = all(piece.is_utf8 for piece in pieces)
        undecodable += not is_utf8
        changed += is_utf8 and not all(piece.is_same for piece in pieces)
    writer.close()
    os.replace(incomplete, file)
    with incomplete.open("wb") as found:
        np.savez(found, tokens=np.array(tokens, np.int64), bytes=sizes, undecodable=undecodable, changed=changed)
    os.replace(incomplete, _lengths_file(file))


def _encoded(texts, tokenizer) -> Iterator:
    """Yield each text and its encoded pieces; texts of BATCH_BYTES together are encoded in parallel."""
    waiting, size = [], 0
    for text in texts:
        waiting.append((text, list(_pieces(text.tobytes()))))
        size += len(text)
        if size >= BATCH_BYTES:
            yield from _encoded_together(waiting, tokenizer)
            waiting, size = [], 0
    yield from _encoded_together(waiting, tokenizer)


def _encoded_together(waiting, tokenizer) -> Iterator:
    found = iter(tokenizer.encode_bytes([piece for _, pieces in waiting for piece in pieces]))
    for text, pieces in waiting:
        yield text, [next(found) for _ in pieces]


def _pieces(text: bytes) -> Iterator[bytes]:
    """Yield parts of at most PIECE_BYTES that end with a line, or, in a longer line, with a character."""
    begin = 0
    while len(text) - begin > PIECE_BYTES:
        cut = text.rfind(b"\n", begin, begin + PIECE_BYTES) + 1
        if not cut:
            cut = begin + PIECE_BYTES
            while cut > begin + PIECE_BYTES - 4 and text[cut] & 0xC0 == 0x80:
                cut -= 1
        yield text[begin:cut]
        begin = cut
    if text[begin:]:
        yield text[begin:]
