"""Provides batches as a function of (seed, step), the same for any number of hosts: tokens of text, or tasks.

    config = DataConfig(dataset="python_stdlib")
    rows = Rows(open_documents(config, "train"), config.sequence_length)
    for batch in train_batches(rows, config, seed=0): ...

`config` selects the text; `documents` opens it (`local_text` with `listing` and `text_file`, or `tfds_text` with
`prepare`; `python_stdlib` is this repository's own TFDS builder; `bad_record` handles records that cannot be read);
`tokens` makes and reads documents of a tokenizer's tokens; `rows` makes rows of them; `batches` orders the rows;
`evaluation` reads a split once. Independent `examples` are rows of the same form: `answers` has the tasks of
`recurrax.tasks`, `arrays` images and other arrays of TFDS, and `functions` what a function of the user's own returns.
"""

from train.data.answers import TaskData
from train.data.arrays import ArrayData
from train.data.bad_record import BadRecordError
from train.data.batches import batch_at, train_batches
from train.data.config import DataConfig
from train.data.documents import Documents, document_lengths, open_bytes, open_documents
from train.data.evaluation import evaluation_batches
from train.data.examples import HeldOutRows
from train.data.functions import FunctionData
from train.data.rows import Rows
from train.data.vocabulary import DOCUMENT_START, VOCAB_SIZE, Bytes

__all__ = [
    "DOCUMENT_START",
    "VOCAB_SIZE",
    "ArrayData",
    "BadRecordError",
    "Bytes",
    "DataConfig",
    "Documents",
    "FunctionData",
    "Rows",
    "TaskData",
    "HeldOutRows",
    "open_data",
    "batch_at",
    "document_lengths",
    "evaluation_batches",
    "open_bytes",
    "open_documents",
    "train_batches",
]


def open_data(config: DataConfig | TaskData | ArrayData | FunctionData, say=print):
    """Return the rows of training, the held-out data, and an identification of both as JSON.

    Raises:
      ValueError: the data cannot be read.
    """
    if not isinstance(config, DataConfig):
        return config.open(say)
    training, validation = (open_documents(config, split, say) for split in ("train", "validation"))
    identity = {"train": training.identity(), "validation": validation.identity()}
    return Rows(training, config.sequence_length, config.packed), validation, identity
