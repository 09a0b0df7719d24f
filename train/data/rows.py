"""Packs documents into rows of tokens, in which every byte occurs exactly once as a target."""

from collections.abc import Callable, Sequence

import grain
import numpy as np

from train.data.documents import Documents, HasStart, ReadsAhead, ReadsSpans, document_lengths
from train.data.vocabulary import DOCUMENT_START

MAX_SHUFFLED = 2**32  # grain permutes 32-bit indices
BORDER = -1  # marks a start token, whose id may also occur within a text


class TokenStream:
    """The token sequence `DOCUMENT_START b1 .. bn DOCUMENT_START b1 ..` of documents in a given order, by position.

    Past its end the stream continues with `DOCUMENT_START`, as if empty documents followed, which serves as padding.
    Documents whose tokens are not bytes have their own start token instead.
    """

    def __init__(self, documents: Documents, order: np.ndarray, lengths: np.ndarray):
        """Take documents `order`, int, shape (n,), of which `lengths` are the numbers of bytes in that order, (n,)."""
        self._span_of = documents.span if isinstance(documents, ReadsSpans) else _span_of(documents)
        self._order = order
        self._start = documents.start if isinstance(documents, HasStart) else DOCUMENT_START
        # Document k, with its start token, occupies positions starts[k] to starts[k + 1].
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64) + 1)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens at positions `begin` to `end`, int32, shape (end - begin,); start tokens are BORDER."""
        tokens = np.full(end - begin, BORDER, dtype=np.int32)
        for k in self._span(begin, end):
            text_start = self._starts[k] + 1
            low, high = max(begin, text_start), min(end, self._starts[k + 1])
            if low < high:
                text = self._span_of(int(self._order[k]), low - text_start, high - text_start)
                if not len(text):
                    continue  # it became unreadable after its length was measured, and is skipped: padding
                tokens[low - begin : high - begin] = text
        return tokens

    def documents_in(self, begin: int, end: int) -> np.ndarray:
        """Return the indices of the documents that have a token at positions `begin` to `end`."""
        span = self._span(begin, end)
        return self._order[span.start : span.stop]

    def _span(self, begin: int, end: int) -> range:
        first = np.searchsorted(self._starts, begin, side="right") - 1
        return range(first, np.searchsorted(self._starts[:-1], end, side="left"))

    def num_rows(self, sequence_length: int) -> int:
        """Return the number of rows of T tokens in which every token but the first is a target: ceil((n - 1) / T)."""
        return -(-max(len(self) - 1, 0) // sequence_length)

    def row(self, index: int, sequence_length: int) -> dict[str, np.ndarray]:
        """Return row r: tokens r T .. r T + T - 1 as inputs, and tokens r T + 1 .. r T + T as targets.

        Returns:
            inputs, targets: int32, shape (T,); reset: bool, (T,), true where a document starts; weights: float32,
            (T,), 1 where the target is text, 0 where it is a document's start or padding. Both depend only on the
            documents' positions: the id of the start token within a text is an ordinary token.
        """
        begin = index * sequence_length
        tokens = self.tokens(begin, begin + sequence_length + 1)
        border = tokens == BORDER
        tokens[border] = self._start
        inputs, targets = tokens[:-1], tokens[1:]
        return {
            "inputs": inputs,
            "targets": targets,
            "reset": border[:-1],
            "weights": (~border[1:]).astype(np.float32),
        }


def _span_of(documents: Documents) -> Callable[[int, int, int], np.ndarray]:
    """Return `ReadsSpans.span` for documents that can only be read whole."""
    return lambda index, begin, end: documents[index][begin:end]


def read_rows(
    documents: Documents, streams: Sequence[TokenStream], indices: Sequence[int], sequence_length: int
) -> list[dict[str, np.ndarray]]:
    """Return row indices[i] of streams[i] for every i; the streams' `documents` are read together."""
    if isinstance(documents, ReadsAhead):
        spans = [(stream, index * sequence_length) for stream, index in zip(streams, indices, strict=True)]
        needed = [stream.documents_in(begin, begin + sequence_length + 1) for stream, begin in spans]
        documents.read_ahead(np.unique(np.concatenate(needed)))
    return [stream.row(index, sequence_length) for stream, index in zip(streams, indices, strict=True)]


class Rows:
    """All documents as one token stream, cut into rows of T + 1 tokens that overlap by one, with random access.

    Every byte of the corpus is a weighted target exactly once. The last row is padded.

    Raises:
        ValueError: the documents have no bytes, or `sequence_length` is less than 1.
    """

    def __init__(self, documents: Documents, sequence_length: int):
        if sequence_length < 1:
            raise ValueError(f"sequence_length={sequence_length!r}: expected a positive integer")
        lengths = document_lengths(documents)
        self.sequence_length = sequence_length
        self.num_bytes = int(lengths.sum())
        if not self.num_bytes:
            raise ValueError(f"an empty data set: {documents.name} has no bytes, so there is no row to train on")
        self._documents = documents
        self._stream = TokenStream(documents, np.arange(len(lengths)), lengths)

    def __len__(self) -> int:
        return self._stream.num_rows(self.sequence_length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return row `index`, in the form of `TokenStream.row`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._stream.row(int(index), self.sequence_length)

    def __str__(self):
        return f"{self.num_bytes:,} bytes of text"

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
