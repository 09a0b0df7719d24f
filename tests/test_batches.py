"""Rows, batches and evaluation lanes: no byte lost and none doubled; batches from (seed, step) alone."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from documents import (
    BATCH_KEYS,
    ListOfDocuments,
    assert_batches_equal,
    random_documents,
    reassembled,
    without_trailing_empty,
)
from train.data import DOCUMENT_START, DataConfig, Rows, batch_at, evaluation_batches, train_batches
from train.data.evaluation import assign_lanes

# Rows


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any), sequence_length=st.integers(1, 50))
def test_rows_hold_every_byte_of_every_document_once(lengths, sequence_length):
    documents = random_documents(lengths)
    rows = Rows(documents, sequence_length)
    all_rows = [rows[r] for r in range(len(rows))]
    texts = [text.tobytes() for text in documents.texts]

    assert rows.num_tokens == sum(lengths) == sum(row["weights"].sum() for row in all_rows)
    # Padding reads as empty documents at the end.
    assert without_trailing_empty(reassembled(all_rows)) == without_trailing_empty(texts)
    # No row is padding alone.
    assert len(rows) == -(-(sum(lengths) + len(lengths) - 1) // sequence_length)


def test_rows_of_a_known_text():
    """The rows of a known text have known tokens, resets and weights."""
    rows = Rows(ListOfDocuments([b"ab", b"", b"c"]), 4)
    start = DOCUMENT_START
    assert start == 256
    assert len(rows) == 2
    np.testing.assert_array_equal(rows[0]["inputs"], [start, 97, 98, start])
    np.testing.assert_array_equal(rows[0]["targets"], [97, 98, start, start])
    np.testing.assert_array_equal(rows[0]["reset"], [True, False, False, True])
    np.testing.assert_array_equal(rows[0]["weights"], [1, 1, 0, 0])
    np.testing.assert_array_equal(rows[1]["inputs"], [start, 99, start, start])
    np.testing.assert_array_equal(rows[1]["targets"], [99, start, start, start])
    np.testing.assert_array_equal(rows[1]["weights"], [1, 0, 0, 0])
    assert [rows[0][key].dtype for key in ("inputs", "targets", "reset", "weights")] == [
        "int32",
        "int32",
        "bool",
        "float32",
    ]


@pytest.mark.parametrize("index", [-1, 2])
def test_rows_outside_the_corpus_raise_index_error(index):
    with pytest.raises(IndexError, match=f"row {index} of 2"):
        Rows(ListOfDocuments([b"ab", b"", b"c"]), 4)[index]


@pytest.mark.parametrize("texts", [[], [b""], [b"", b""]])
def test_empty_documents_are_refused(texts):
    """Documents without a byte have no rows and are refused."""
    with pytest.raises(ValueError, match="an empty data set"):
        Rows(ListOfDocuments(texts), 4)
    with pytest.raises(ValueError, match="an empty data set"):
        evaluation_batches(ListOfDocuments(texts), 4, 2)


def test_one_byte_is_one_row():
    rows = Rows(ListOfDocuments([b"x"]), 256)
    assert len(rows) == 1
    assert rows[0]["weights"].sum() == 1


# Batches


@pytest.fixture
def small():
    """23 rows that differ from one another, and a batch size that divides neither 23 nor a power of it."""
    config = DataConfig(sequence_length=16, batch_size=8)
    rows = Rows(random_documents([100, 3, 250]), config.sequence_length)
    assert len(rows) == 23
    return rows, config


def sequence_of_rows(rows, config, seed, count):
    """Which rows the first `count` elements of the training order are."""
    index = {rows[r]["inputs"].tobytes(): r for r in range(len(rows))}
    assert len(index) == len(rows)
    steps = -(-count // config.batch_size)
    batches = [batch_at(rows, config, seed, step) for step in range(steps)]
    return [index[row.tobytes()] for batch in batches for row in batch["inputs"]][:count]


def test_every_epoch_is_another_permutation_of_all_rows(small):
    rows, config = small
    n = len(rows)
    order = sequence_of_rows(rows, config, seed=5, count=4 * n)
    epochs = [tuple(order[e * n : (e + 1) * n]) for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    assert len({*epochs, tuple(range(n))}) == 5


def test_neighbouring_seeds_share_no_epoch(small):
    rows, config = small
    n = len(rows)
    epochs = set()
    for seed in range(4):
        order = sequence_of_rows(rows, config, seed, 3 * n)
        epochs |= {tuple(order[e * n : (e + 1) * n]) for e in range(3)}
    assert len(epochs) == 12


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_together_have_the_batch_of_one_host(small, hosts):
    rows, config = small
    share = config.batch_size // hosts
    for step in (0, 1, 7, 1000):
        whole = batch_at(rows, config, 3, step)
        parts = [batch_at(rows, config, 3, step, slice(h * share, (h + 1) * share)) for h in range(hosts)]
        assert_batches_equal(whole, {key: np.concatenate([part[key] for part in parts]) for key in whole})


@pytest.mark.parametrize("start_step", [0, 1, 29])
@pytest.mark.parametrize("row_slice", [slice(None), slice(2, 5)])
def test_train_batches_equal_batch_at(small, start_step, row_slice):
    """The batches of training are those of `batch_at`, from any step on."""
    rows, config = small
    iterator = train_batches(rows, config, 11, start_step, row_slice)
    for step in range(start_step, start_step + 12):
        batch = next(iterator)
        assert_batches_equal(batch, batch_at(rows, config, 11, step, row_slice))
        assert batch["inputs"].shape == (len(range(8)[row_slice]), 16)
    iterator.close()


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def assert_threads_end():
    deadline = time.monotonic() + 5
    while prefetch_threads():
        assert time.monotonic() < deadline, prefetch_threads()
        time.sleep(0.01)


def test_prefetch_thread_ends_with_its_iterator(small):
    """Batches are made ahead in another thread, which ends with its iterator."""
    rows, config = small

    class Watched(ListOfDocuments):
        def __getitem__(self, index):
            reads.append(threading.current_thread())
            if len(reads) > 4 * config.batch_size:
                many_made.set()
            return super().__getitem__(index)

    reads, many_made = [], threading.Event()
    watched = Rows(Watched(random_documents([100, 3, 250]).texts), config.sequence_length)
    reads.clear()
    iterator = train_batches(watched, config, 0)
    assert not reads, "nothing is read before the first batch is asked for"
    next(iterator)
    assert many_made.wait(5), "the batches after the first are made without being asked for"
    assert threading.current_thread() not in reads
    iterator.close()
    assert_threads_end()

    iterator = train_batches(rows, config, 0)
    next(iterator)
    del iterator
    assert_threads_end()


def test_an_error_while_reading_is_raised_to_the_consumer(small):
    rows, config = small

    class Broken(ListOfDocuments):
        def lengths(self):
            return np.array([len(text) for text in self.texts])

        def __getitem__(self, index):
            raise OSError("the disk is gone")

    rows = Rows(Broken(random_documents([100, 3, 250]).texts), config.sequence_length)
    with pytest.raises(OSError, match="the disk is gone"):
        next(train_batches(rows, config, 0))
    assert_threads_end()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1, "step": 0}, "seed=-1"),
        ({"seed": 2**32, "step": 0}, "seed=4294967296"),
        ({"seed": 0, "step": -1}, "step=-1"),
        ({"seed": 0, "step": 0, "row_slice": slice(8, 9)}, r"row_slice=slice\(8, 9, None\).*batch_size=8"),
    ],
)
def test_batch_at_refuses_what_has_no_batch(small, arguments, message):
    rows, config = small
    with pytest.raises(ValueError, match=message):
        batch_at(rows, config, **arguments)


def test_train_batches_refuses_before_the_first_batch(small):
    rows, config = small
    with pytest.raises(ValueError, match="start_step=-1"):
        train_batches(rows, config, 0, start_step=-1)


# Evaluation


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any),
    sequence_length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
)
def test_evaluation_lanes_hold_every_document_whole_and_once(lengths, sequence_length, batch_size):
    documents = random_documents(lengths)
    batches = list(evaluation_batches(documents, sequence_length, batch_size))
    found = []
    for lane in range(batch_size):
        found += reassembled([{key: batch[key][lane] for key in BATCH_KEYS} for batch in batches])
    assert sorted(filter(None, found)) == sorted(text.tobytes() for text in documents.texts if len(text))
    assert sum(batch["weights"].sum() for batch in batches) == sum(lengths)
    assert all(batch["inputs"].shape == (batch_size, sequence_length) for batch in batches)
    if all(lengths):  # an empty document at a lane's end is a target-less token
        assert batches[-1]["weights"].any(), "no batch is padding alone"


def test_evaluation_lanes_are_balanced():
    lengths = np.random.default_rng(0).integers(0, 5000, size=300)
    lanes = assign_lanes(lengths, 8)
    assert sorted(np.concatenate(lanes)) == list(range(300))
    loads = [lengths[lane].sum() + len(lane) for lane in lanes]
    assert max(loads) - min(loads) < 0.01 * max(loads)


@pytest.mark.parametrize(("sequence_length", "batch_size"), [(0, 1), (1, 0)])
def test_evaluation_refuses_sizes_that_are_not_positive(sequence_length, batch_size):
    with pytest.raises(ValueError, match=r"(sequence_length|batch_size)=0"):
        evaluation_batches(ListOfDocuments([b"a"]), sequence_length, batch_size)
