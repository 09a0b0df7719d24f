"""Provides `python -m eval perplexity`: the held-out loss of a run or a published checkpoint, with the bits per byte
of simpler models on the same text."""

import dataclasses
import lzma
import time

import numpy as np
import tyro

from eval.run import one_source, open_run, with_local_paths
from recurrax import pretrained
from train import sharding
from train.data import DOCUMENT_START, DataConfig, Documents, open_bytes, open_documents
from train.data.tokens import TokenDocuments
from train.evaluate import make_evaluator
from train.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class Command:
    """Prints loss, perplexity and bits per byte of a whole split: every byte counts once, in whole documents."""

    workdir: str | None = None
    """Directory of a run."""
    pretrained: str | None = None
    """Directory of a published checkpoint (config.json, safetensors, tokenizer.json), instead of a run."""
    step: int | None = None
    """Step of the run's checkpoint to evaluate; None: the newest."""
    split: str = "validation"
    """Name of the split, validation or train."""
    batch_size: int | None = None
    """Number of lanes over which documents are distributed; None: the run's number, or 8 for a published checkpoint."""
    sequence_length: int | None = None
    """Tokens per call, None: as in training, or 256. The state is carried from call to call."""
    dataset: str | None = None
    """TFDS data set to evaluate on; None: the run's own, or python_stdlib for a published checkpoint."""
    path: str | None = None
    """Local text to evaluate on, instead of the run's data."""
    data_dir: str | None = None
    """Directory of data prepared by TFDS and of tokenized texts; None: the run's own, or ~/tensorflow_datasets."""
    max_length: int = 2048
    """Cache size in tokens of a published model's attention without a window."""

    def __post_init__(self):
        one_source(self.workdir, self.pretrained, self.step)
        if self.dataset is not None and self.path is not None:
            raise ValueError(f"give either --dataset or --path, got {self.dataset} and {self.path}")
        for name in ("batch_size", "sequence_length", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def main(arguments: list[str]) -> int:
    command = with_local_paths(tyro.cli(Command, args=arguments, prog="python -m eval perplexity"))
    if command.pretrained is None:
        run = open_run(command.workdir, command.step)
        config, params, data, source = run.config.model, run.params, run.config.data, f"step {run.step}"
        adapter = run.config.adapter
        if not isinstance(data, DataConfig):
            raise ValueError(f"perplexity reads text; the run's data are {type(data).__name__}: {run.path} has metrics")
        lanes = run.config.evaluation.batch_size
    else:
        data = DataConfig(tokenizer=command.pretrained, closed=False)
        vocabulary = data.vocabulary  # read before the tensors, which takes longer
        model, params = pretrained.load(command.pretrained, max_length=command.max_length)
        config, params, source, lanes, adapter = model.config, params["params"], command.pretrained, 8, None
        vocabulary.check(config.vocab_size)
    data = other_data(data, command.dataset, command.path, command.data_dir)
    documents, tokens = open_bytes(data, command.split), open_documents(data, command.split)
    length = command.sequence_length or data.sequence_length
    mesh = sharding.make_mesh(MeshConfig(data=1))
    evaluate = make_evaluator(config, mesh, length, command.batch_size or lanes, packed=data.packed, adapter=adapter)
    start = time.monotonic()
    result = evaluate(params, tokens)
    seconds = time.monotonic() - start
    unigram, bigram = byte_entropies(documents)
    xz = xz_bits_per_byte(documents)
    if data.tokenizer is None:
        print(f"{documents.name}, {source}: {result.num_tokens:,} bytes in {seconds:.1f} s")
        print(f"  loss {result.loss:.4f} nats per byte, perplexity {result.perplexity:.4f}")
        print(f"  {result.bits_per_byte:.4f} bits per byte")
    else:
        size = f"{result.num_tokens:,} tokens, {tokens.total_bytes:,} bytes"
        print(f"{documents.name}, {source}: {size} in {seconds:.1f} s")
        print(f"  loss {result.loss:.4f} nats per token, perplexity {result.perplexity:.4f}")
        print(f"  {result.bits_per_byte:.4f} bits per byte")
        for line in lost_text(tokens):
            print(f"  {line}")
    print(f"  the same text: {unigram:.4f} by byte frequencies, {bigram:.4f} by byte pairs, {xz:.4f} by xz -9")
    return 0


def other_data(data: DataConfig, dataset: str | None, path: str | None, data_dir: str | None) -> DataConfig:
    """Return the data config with its text replaced by `path` or `dataset`, if one is given."""
    if data_dir is not None:
        data = dataclasses.replace(data, data_dir=data_dir)
    if path is not None:
        return dataclasses.replace(data, path=path)
    if dataset is not None:
        return dataclasses.replace(data, path=None, dataset=dataset)
    return data


def lost_text(documents: TokenDocuments) -> list[str]:
    """Return one line for each way in which the tokens do not spell the bytes that bits per byte are counted over."""
    lines, count = [], len(documents)
    if documents.num_undecodable:
        lines.append(
            f"{documents.num_undecodable} of {count} documents are not UTF-8: the model reads U+FFFD in places"
        )
    if documents.num_changed:
        lines.append(
            f"the tokens of {documents.num_changed} of {count} documents spell another text (unknown characters, or a "
            "normalizer): the model's loss is of that text, the bytes are those of the documents"
        )
    return lines


def byte_entropies(documents: Documents) -> tuple[float, float]:
    """Return bits per byte of the best unigram and bigram models of this text, H(x_t) and H(x_t | x_{t-1})."""
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
    """Return bits per byte of the whole text, compressed as one xz -9 stream."""
    text = b"".join(np.asarray(documents[i]).tobytes() for i in range(len(documents)))
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
