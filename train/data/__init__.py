"""Provides text as batches of byte tokens: a function of (seed, step), the same for any number of hosts.

    config = DataConfig(dataset="python_stdlib")
    rows = Rows(open_documents(config, "train"), config.sequence_length)
    for batch in train_batches(rows, config, seed=0): ...

`config` selects the text; `documents` opens it (`local_text` with `listing` and `text_file`, or `tfds_text` with
`prepare`; `python_stdlib` is this repository's own TFDS builder; `bad_record` handles records that cannot be read);
`rows` packs documents into rows; `batches` orders the rows; `evaluation` reads a split once.
"""

from train.data.bad_record import BadRecordError
from train.data.batches import batch_at, train_batches
from train.data.config import DataConfig
from train.data.documents import Documents, document_lengths, open_documents
from train.data.evaluation import evaluation_batches
from train.data.rows import DOCUMENT_START, VOCAB_SIZE, Rows

__all__ = [
    "DOCUMENT_START",
    "VOCAB_SIZE",
    "BadRecordError",
    "DataConfig",
    "Documents",
    "Rows",
    "batch_at",
    "document_lengths",
    "evaluation_batches",
    "open_documents",
    "train_batches",
]
