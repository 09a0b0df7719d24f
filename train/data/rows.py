"""Documents packed into rows of tokens, with no byte lost and none doubled."""

from collections.abc import Callable, Sequence

import numpy as np

from train.data.documents import Documents, HasStart, ReadsAhead, ReadsSpans, document_lengths

DOCUMENT_START = 256  # the token that opens every document; bytes are 0..255
BORDER = -1  # stands for the start token among the tokens of the documents, whose texts may contain its id
VOCAB_SIZE = 288  # 257 rounded up to a multiple of 32, so that the table splits over any usual mesh


class TokenStream:
    """The tokens `DOCUMENT_START b1 .. bn DOCUMENT_START b1 ..` of some documents in a given order, by position.

    Past its end the stream goes on with `DOCUMENT_START`, as if empty documents followed: that is the padding, and it
    needs no rule of its own. Documents that are no bytes have a start token of their own in its place.
    """

    def __init__(self, documents: Documents, order: np.ndarray, lengths: np.ndarray):
        """`order`: the documents' indices, int, shape (n,); `lengths`: their bytes in that order, shape (n,)."""
        self._span_of = documents.span if isinstance(documents, ReadsSpans) else _span_of(documents)
        self._order = order
        self._start = documents.start if isinstance(documents, HasStart) else DOCUMENT_START
        # Document k occupies positions starts[k] to starts[k + 1], its start token included.
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64) + 1)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens at positions `begin` to `end`, int32, shape (end - begin,); BORDER between the texts."""
        tokens = np.full(end - begin, BORDER, dtype=np.int32)
        for k in self._span(begin, end):
            text_start = self._starts[k] + 1
            low, high = max(begin, text_start), min(end, self._starts[k + 1])
            if low < high:
                text = self._span_of(int(self._order[k]), low - text_start, high - text_start)
                if not len(text):
                    continue  # unreadable since its length was measured, and to be skipped: padding
                tokens[low - begin : high - begin] = text
        return tokens

    def documents_in(self, begin: int, end: int) -> np.ndarray:
        """The indices of the documents that have a token at positions `begin` to `end`."""
        span = self._span(begin, end)
        return self._order[span.start : span.stop]

    def _span(self, begin: int, end: int) -> range:
        first = np.searchsorted(self._starts, begin, side="right") - 1
        return range(first, np.searchsorted(self._starts[:-1], end, side="left"))

    def num_rows(self, sequence_length: int) -> int:
        """Rows of `sequence_length` that it takes for every token but the first to be a target: ceil((n - 1) / T)."""
        return -(-max(len(self) - 1, 0) // sequence_length)

    def row(self, index: int, sequence_length: int) -> dict[str, np.ndarray]:
        """Tokens r T .. r T + T as inputs and, one later, targets.

        Returns:
            inputs, targets: int32, shape (T,); reset: bool, (T,), true where a document starts; weights: float32,
            (T,), 1 where the target is of a text, 0 where it is a document's start or padding. Both follow from where
            the documents lie: a start token within a text is a token like any other.
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
    """`ReadsSpans.span` of documents that are read whole."""
    return lambda index, begin, end: documents[index][begin:end]


def read_rows(
    documents: Documents, streams: Sequence[TokenStream], indices: Sequence[int], sequence_length: int
) -> list[dict[str, np.ndarray]]:
    """Row indices[i] of streams[i], all of them streams of `documents`, whose texts are read together."""
    if isinstance(documents, ReadsAhead):
        spans = [(stream, index * sequence_length) for stream, index in zip(streams, indices, strict=True)]
        needed = [stream.documents_in(begin, begin + sequence_length + 1) for stream, begin in spans]
        documents.read_ahead(np.unique(np.concatenate(needed)))
    return [stream.row(index, sequence_length) for stream, index in zip(streams, indices, strict=True)]


class Rows:
    """All documents as one token stream, cut into rows of T + 1 tokens that overlap by one; random access.

    Every byte of the corpus is a weighted target exactly once. The last row is padded.

    Raises:
        ValueError: the documents have no bytes, so that there is no row.
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
        """Row `index`, as `TokenStream.row` describes it."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._stream.row(int(index), self.sequence_length)

    def take(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Several rows; the documents that they share or that lie apart are read together."""
        return read_rows(self._documents, [self._stream] * len(indices), indices, self.sequence_length)
