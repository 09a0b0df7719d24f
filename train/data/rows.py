"""Makes rows of tokens from documents, in which every token occurs exactly once as a target."""

from collections.abc import Callable, Sequence

import grain
import numpy as np

from train.data.documents import CountsBytes, Documents, HasStart, ReadsAhead, ReadsSpans, document_lengths
from train.data.vocabulary import DOCUMENT_START

MAX_SHUFFLED = 2**32  # grain permutes 32-bit indices
BORDER = -1  # marks a start token, whose id may also occur within a text


class TokenStream:
    """The token sequence `start b1 .. bn start b1 ..` of documents in a given order, by position.

    Past its end the stream continues with start tokens, as if empty documents followed, which serves as padding.
    """

    def __init__(self, documents: Documents, order: np.ndarray, lengths: np.ndarray):
        """Take documents `order`, int, shape (n,), of which `lengths` are the numbers of tokens in that order, (n,)."""
        self._documents, self._order = documents, order
        # Document k, with its start token, occupies positions starts[k] to starts[k + 1].
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64) + 1)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens at positions `begin` to `end`, int32, shape (end - begin,); start tokens are BORDER."""
        return self._filled(BORDER, _span_of(self._documents), begin, end)

    def num_rows(self, sequence_length: int) -> int:
        """Return the number of rows of T tokens in which every token but the first is a target: ceil((n - 1) / T)."""
        return -(-max(len(self) - 1, 0) // sequence_length)

    def row(self, index: int, sequence_length: int) -> dict[str, np.ndarray]:
        """Return row r: tokens r T .. r T + T - 1 as inputs, and tokens r T + 1 .. r T + T as targets.

        Returns:
            inputs, targets: int32, shape (T,); reset: bool, (T,), true where a document starts; weights: float32,
            (T,), 1 where the target is text, 0 where it is a document's start or padding. Both depend only on the
            documents' positions: the id of the start token within a text is an ordinary token. Tokens of a tokenizer
            also have bytes: float32, (T,), how many bytes of text each target stands for.
        """
        begin = index * sequence_length
        end = begin + sequence_length + 1
        num_bytes = None
        if isinstance(self._documents, CountsBytes):
            num_bytes = self._filled(0, self._documents.num_bytes, begin, end)
        return _row(self._documents, self.tokens(begin, end), num_bytes)

    def documents_of(self, index: int, sequence_length: int) -> np.ndarray:
        """Return the indices of the documents that have a token in row `index`."""
        span = self._span(index * sequence_length, (index + 1) * sequence_length + 1)
        return self._order[span.start : span.stop]

    def _filled(self, empty: int, span_of: Callable[[int, int, int], np.ndarray], begin: int, end: int) -> np.ndarray:
        """Return a value for each position, int32, (end - begin,): `empty` at start tokens, else of the documents."""
        values = np.full(end - begin, empty, dtype=np.int32)
        for k in self._span(begin, end):
            text_start = self._starts[k] + 1
            low, high = max(begin, text_start), min(end, self._starts[k + 1])
            if low < high:
                found = span_of(int(self._order[k]), low - text_start, high - text_start)
                if not len(found):
                    continue  # it became unreadable after its length was measured, and is skipped: padding
                values[low - begin : high - begin] = found
        return values

    def _span(self, begin: int, end: int) -> range:
        first = np.searchsorted(self._starts, begin, side="right") - 1
        return range(first, np.searchsorted(self._starts[:-1], end, side="left"))


class SeparateStream:
    """The rows of documents in a given order, each of which is of one document: its last row ends in padding."""

    def __init__(self, documents: Documents, order: np.ndarray, lengths: np.ndarray):
        self._documents, self._order, self._lengths = documents, order, np.asarray(lengths, np.int64)
        self._first: dict[int, np.ndarray] = {}

    def num_rows(self, sequence_length: int) -> int:
        """Return the number of rows of T tokens: the sum of ceil(n / T) over documents of n tokens."""
        return int(self._first_rows(sequence_length)[-1])

    def row(self, index: int, sequence_length: int) -> dict[str, np.ndarray]:
        """Return a row as `TokenStream.row` does; past the last row, padding."""
        first = self._first_rows(sequence_length)
        if index >= first[-1]:
            document = TokenStream(self._documents, self._order[:0], self._lengths[:0])
            return document.row(0, sequence_length)
        k = int(np.searchsorted(first, index, side="right") - 1)
        document = TokenStream(self._documents, self._order[k : k + 1], self._lengths[k : k + 1])
        return document.row(index - int(first[k]), sequence_length)

    def documents_of(self, index: int, sequence_length: int) -> np.ndarray:
        """Return the index of the document of row `index`; none past the last row."""
        first = self._first_rows(sequence_length)
        k = int(np.searchsorted(first, index, side="right") - 1)
        return self._order[k : k + 1]

    def _first_rows(self, sequence_length: int) -> np.ndarray:
        """Return the first row of each document, and the number of all rows."""
        if sequence_length not in self._first:
            counts = -(-self._lengths // sequence_length)
            self._first[sequence_length] = np.concatenate([[0], np.cumsum(counts)])
        return self._first[sequence_length]


def stream_of(documents: Documents, order: np.ndarray, lengths: np.ndarray, packed: bool):
    """Return the stream of these documents: packed one after the other, or each in rows of its own."""
    return (TokenStream if packed else SeparateStream)(documents, order, lengths)


def _row(documents: Documents, tokens: np.ndarray, num_bytes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return T + 1 tokens, of which start tokens are BORDER, as a row."""
    border = tokens == BORDER
    tokens[border] = documents.start if isinstance(documents, HasStart) else DOCUMENT_START
    row = {
        "inputs": tokens[:-1],
        "targets": tokens[1:],
        "reset": border[:-1],
        "weights": (~border[1:]).astype(np.float32),
    }
    return row if num_bytes is None else {**row, "bytes": num_bytes[1:].astype(np.float32)}


def _span_of(documents: Documents) -> Callable[[int, int, int], np.ndarray]:
    """Return `ReadsSpans.span`, also of documents that can only be read whole."""
    if isinstance(documents, ReadsSpans):
        return documents.span
    return lambda index, begin, end: documents[index][begin:end]


def read_rows(
    documents: Documents,
    streams: Sequence[TokenStream | SeparateStream],
    indices: Sequence[int],
    sequence_length: int,
) -> list[dict[str, np.ndarray]]:
    """Return row indices[i] of streams[i] for every i; the streams' `documents` are read together."""
    if isinstance(documents, ReadsAhead):
        needed = [stream.documents_of(index, sequence_length) for stream, index in zip(streams, indices, strict=True)]
        documents.read_ahead(np.unique(np.concatenate(needed)))
    return [stream.row(index, sequence_length) for stream, index in zip(streams, indices, strict=True)]


class Rows:
    """All documents as rows of T + 1 tokens that overlap by one, with random access.

    Every token of the corpus is a weighted target exactly once. Packed documents follow each other in one stream,
    whose last row is padded; others have rows of their own, the last of which is padded.

    Raises:
        ValueError: the documents have no bytes, or `sequence_length` is less than 1.
    """

    def __init__(self, documents: Documents, sequence_length: int, packed: bool = True):
        if sequence_length < 1:
            raise ValueError(f"sequence_length={sequence_length!r}: expected a positive integer")
        lengths = document_lengths(documents)
        self.sequence_length = sequence_length
        self.num_tokens = int(lengths.sum())
        if not self.num_tokens:
            raise ValueError(f"an empty data set: {documents.name} has no bytes, so there is no row to train on")
        self._documents = documents
        self._stream = stream_of(documents, np.arange(len(lengths)), lengths, packed)

    def __len__(self) -> int:
        return self._stream.num_rows(self.sequence_length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return row `index`, in the form of `TokenStream.row`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._stream.row(int(index), self.sequence_length)

    def __str__(self):
        if isinstance(self._documents, CountsBytes):
            return f"{self.num_tokens:,} tokens of {self._documents.total_bytes:,} bytes of text"
        return f"{self.num_tokens:,} bytes of text"

    def order(self, seed: int) -> Sequence[int]:
        """Return the index of each element of the endless sequence of epochs, each a permutation of all rows.

        Raises:
          ValueError: there are more rows than can be shuffled.
        """
        if len(self) > MAX_SHUFFLED:
            raise ValueError(f"{len(self):,} rows: at most 2**32 can be shuffled; choose a longer sequence_length")
        return grain.MapDataset.range(len(self)).seed(seed).shuffle().repeat()

    def take(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return several rows, whose documents are read together."""
        return read_rows(self._documents, [self._stream] * len(indices), indices, self.sequence_length)
