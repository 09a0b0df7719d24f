"""Provides every document of a split from start to end, in lanes that carry state from batch to batch."""

import heapq
from collections.abc import Iterator

import numpy as np

from train.data.batches import Batch, prefetched, stack
from train.data.documents import Documents, document_lengths
from train.data.rows import read_rows, stream_of


def evaluation_batches(
    documents: Documents, sequence_length: int, batch_size: int, packed: bool = True
) -> Iterator[Batch]:
    """Yield batches whose row i is the next T tokens of lane i, until every lane has ended.

    Whole documents are assigned to `batch_size` lanes, the longest first, each to the lane that is shortest so far. A
    state that is carried from one batch to the next and cleared at `reset` therefore sees each document from its start
    to its end. Every token is a weighted target exactly once; the ends of the shorter lanes are padding. Documents that
    are not packed start at the first token of a row.

    Returns:
        An iterator over the keys of a row (see `TokenStream.row`), each of shape (batch_size, T).

    Raises:
        ValueError: a size is not positive, or the documents have no bytes.
    """
    for name, value in (("sequence_length", sequence_length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: expected a positive integer")
    lengths = document_lengths(documents)
    if not lengths.sum():
        raise ValueError(f"an empty data set: {documents.name} has no bytes to evaluate on")
    lanes = [stream_of(documents, lane, lengths[lane], packed) for lane in assign_lanes(lengths, batch_size)]
    num_batches = max(lane.num_rows(sequence_length) for lane in lanes)
    return prefetched(lambda k: stack(read_rows(documents, lanes, [k] * batch_size, sequence_length)), 0, num_batches)


def assign_lanes(lengths: np.ndarray, num_lanes: int) -> list[np.ndarray]:
    """Return the document indices of `num_lanes` lanes: the longest first, each to the lane with the fewest tokens."""
    lanes: list[list[int]] = [[] for _ in range(num_lanes)]
    loads = [(0, lane) for lane in range(num_lanes)]
    for document in np.argsort(-lengths, kind="stable"):
        load, lane = loads[0]
        lanes[lane].append(int(document))
        heapq.heapreplace(loads, (load + int(lengths[document]) + 1, lane))  # +1: the start token
    return [np.array(lane, dtype=np.int64) for lane in lanes]
