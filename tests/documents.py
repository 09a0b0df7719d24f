"""What the tests of train.data share: documents in memory, and programs in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from train.data import DOCUMENT_START

REPOSITORY = Path(__file__).parents[1]
BATCH_KEYS = {"inputs", "targets", "reset", "weights"}


class ListOfDocuments:
    """Documents that satisfy the protocol and no more."""

    name = "a list"

    def __init__(self, texts):
        self.texts = [np.frombuffer(bytes(text), dtype=np.uint8) for text in texts]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index]


def random_documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return ListOfDocuments([rng.integers(0, 256, size=n, dtype=np.uint8) for n in lengths])


def reassembled(rows):
    """The documents that consecutive rows hold, read back from the four arrays alone."""
    documents, current, expected = [], None, None
    for row in rows:
        for token, target, reset, weight in zip(
            *(row[key] for key in ("inputs", "targets", "reset", "weights")), strict=True
        ):
            assert expected is None or token == expected, "a row must go on where the one before ended"
            expected = target
            assert reset == (token == DOCUMENT_START)
            assert weight == (target < DOCUMENT_START)
            if reset:
                documents.append(current := [])
            if weight:
                current.append(target)
    return [bytes(document) for document in documents]


def without_trailing_empty(documents):
    while documents and not documents[-1]:
        documents = documents[:-1]
    return documents


def assert_batches_equal(a, b):
    assert a.keys() == b.keys() == BATCH_KEYS
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
        assert a[key].dtype == b[key].dtype


def run_python(code, *, env=None, **options):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | (env or {}),
        **options,
    )
