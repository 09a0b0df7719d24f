"""python -m eval perplexity: the held-out loss of a run, beside what simpler models make of the same text."""

import dataclasses
import lzma
import time

import numpy as np
import tyro

from eval.run import open_run
from train import sharding
from train.data import DOCUMENT_START, DataConfig, Documents, open_documents
from train.evaluate import make_evaluator
from train.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class Command:
    """Loss, perplexity and bits per byte of a whole split: every byte once, each document from its start to its end."""

    workdir: str
    """Directory of the run."""
    step: int | None = None
    """Checkpoint to evaluate; None is the newest."""
    split: str = "validation"
    """validation or train."""
    batch_size: int | None = None
    """Lanes that the documents are dealt to; None: as in training."""
    dataset: str | None = None
    """Another TFDS data set than the run's own."""
    path: str | None = None
    """Another local text than the run's own."""

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def main(arguments: list[str]) -> int:
    command = tyro.cli(Command, args=arguments, prog="python -m eval perplexity")
    run = open_run(command.workdir, command.step)
    data = other_data(run.config.data, command.dataset, command.path)
    documents = open_documents(data, command.split)
    lanes = command.batch_size or run.config.evaluation.batch_size
    mesh = sharding.make_mesh(MeshConfig(data=1))
    evaluate = make_evaluator(run.config.model, mesh, data.sequence_length, lanes)
    start = time.monotonic()
    result = evaluate(run.params, documents)
    seconds = time.monotonic() - start
    unigram, bigram = byte_entropies(documents)
    xz = xz_bits_per_byte(documents)
    print(f"{documents.name}, step {run.step}: {result.num_bytes:,} bytes in {seconds:.1f} s")
    print(f"  loss {result.loss:.4f} nats per byte, perplexity {result.perplexity:.4f}")
    print(f"  {result.bits_per_byte:.4f} bits per byte")
    print(f"  the same text: {unigram:.4f} by byte frequencies, {bigram:.4f} by byte pairs, {xz:.4f} by xz -9")
    return 0


def other_data(data: DataConfig, dataset: str | None, path: str | None) -> DataConfig:
    """The run's data config, reading another text where one is named."""
    if path is not None:
        return dataclasses.replace(data, path=path)
    if dataset is not None:
        return dataclasses.replace(data, path=None, dataset=dataset)
    return data


def byte_entropies(documents: Documents) -> tuple[float, float]:
    """Bits per byte of the best unigram and of the best bigram model of this very text: H(x_t) and H(x_t | x_{t-1})."""
    pairs = np.zeros((DOCUMENT_START + 1, 256), np.int64)
    for i in range(len(documents)):
        document = np.asarray(documents[i])
        before = np.concatenate([[DOCUMENT_START], document[:-1].astype(np.int64)])[: len(document)]
        np.add.at(pairs, (before, document), 1)
    total = pairs.sum()

    def bits(counts):
        counts = counts[counts > 0]
        return float(-(counts * np.log2(counts / counts.sum())).sum())

    return bits(pairs.sum(0)) / total, sum(bits(row) for row in pairs) / total


def xz_bits_per_byte(documents: Documents) -> float:
    """Bits per byte of the whole text in one xz -9 stream."""
    text = b"".join(np.asarray(documents[i]).tobytes() for i in range(len(documents)))
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
