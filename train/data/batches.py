"""Provides batches as a function of (seed, step), so that a restart needs no saved position."""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from train.data.config import DataConfig
from train.data.rows import Rows

Batch = dict[str, np.ndarray]

PREFETCH_BATCHES = 4


def batch_at(rows: Rows, config: DataConfig, seed: int, step: int, row_slice: slice = slice(None)) -> Batch:
    """Return batch `step`: elements step B .. step B + B - 1 of the endless sequence epoch 0, epoch 1, ...

    An epoch is a permutation of all rows that depends on (seed, epoch) alone. A host that passes its `row_slice` of
    0 .. B - 1 gets those rows of the global batch, whatever the other hosts take.

    Returns:
        The keys of a row, each of shape (B_local, T).

    Raises:
        ValueError: `seed` or `step` is out of range, or `row_slice` selects no row.
    """
    return _batch_function(rows, config, seed, row_slice)(_checked_step("step", step))


def train_batches(
    rows: Rows, config: DataConfig, seed: int, start_step: int = 0, row_slice: slice = slice(None)
) -> Iterator[Batch]:
    """Yield batch_at(start_step), batch_at(start_step + 1), ... without end, prefetched by a background thread.

    An exception in the thread is raised by the `next` that would have returned its batch. Closing the iterator, or
    dropping it, ends the thread.

    Raises:
        ValueError: as `batch_at`.
    """
    batch = _batch_function(rows, config, seed, row_slice)
    return prefetched(batch, _checked_step("start_step", start_step), np.iinfo(np.int64).max)


def prefetched(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """Yield make(start) .. make(stop - 1); from the first `next` on a background thread is a few batches ahead."""
    # One thread: the batches are gathered by Python code, and more of them would wait for the interpreter lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH_BATCHES)
    iterator = iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def stack(rows: list[dict[str, np.ndarray]]) -> Batch:
    """Return rows, each (T,), stacked into a batch, each (B, T)."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _batch_function(rows: Rows, config: DataConfig, seed: int, row_slice: slice) -> Callable[[int], Batch]:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r}: expected an integer from 0 to 2**32 - 1")
    order = rows.order(seed)
    local = range(config.batch_size)[row_slice]
    if not len(local):
        raise ValueError(f"row_slice={row_slice!r} selects none of batch_size={config.batch_size} rows")

    def batch(step: int) -> Batch:
        first = step * config.batch_size
        return stack(rows.take([order[first + i] for i in local]))

    return batch


def _checked_step(name: str, step: int) -> int:
    if step < 0:
        raise ValueError(f"{name}={step!r}: expected an integer from 0 on")
    return int(step)
