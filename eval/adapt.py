"""Compares ways of adapting a model to a text: `python -m eval adapt`.

A prompt, start states, LoRA and full training see the same text; all are measured on the same held-out documents, each
read from its start. The prompt is the first bytes of the training text, as many as the start states have.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import tyro

from eval.page import write_page
from eval.run import open_run
from recurrax import checks
from recurrax.adapters import ADAPTER, Adapter, InitialState, LoRA, Materialised
from recurrax.models import build, prefill
from recurrax.parameters import nested
from train import loop, presets, sharding
from train.config import TrainConfig
from train.data import open_documents
from train.data.documents import CountsBytes
from train.evaluate import make_evaluator
from train.optimizers import Cosine
from train.paths import local_path
from train.starts import stored_in
from train.state import trained_declarations


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Adapt a model to a text in several ways and write a table. The same command resumes an interrupted comparison."""

    source: str
    """Directory of a run or of a published checkpoint, the model that is adapted."""
    path: str
    """Text file, or folder of text files; a part is held out."""
    workdir: str
    """Directory of the runs, one folder each."""
    steps: int = 500
    """Steps of each training."""
    sequence_length: int = 256
    """Tokens per row."""
    batch_size: int = 8
    """Rows per step."""
    rank: int = 4
    """Rank of LoRA."""
    states: float = 0.05
    """Learning rate of start states."""
    lora: float = 0.01
    """Learning rate of LoRA."""
    full: float = 0.003
    """Learning rate of full training."""
    validation_fraction: float = 0.05
    """Fraction of the text that is held out."""
    output: str | None = None
    """Markdown file to write; None: WORKDIR/adapt.md."""

    def __post_init__(self):
        checks.positive(self, "steps", "sequence_length", "batch_size", "rank", "states", "lora", "full")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    way: str
    numbers: int
    """Trained numbers, or bytes of a prompt."""
    size: int
    """Bytes that are stored beside the model."""
    seconds: float
    bits_per_byte: float


@dataclasses.dataclass(frozen=True)
class Given(Adapter):
    """A start state that is given, such as that after a prompt."""

    @property
    def starts(self):
        return True

    def declare(self, config, declared):
        raise ValueError("a start state that is given has no parameters to train")

    def materialise(self, config, params, own):
        return Materialised(params, own)


def base_config(command: Adapt) -> TrainConfig:
    """Return the run that trains all parameters further."""
    config = presets.find(f"finetune:{command.source}")()
    data = dataclasses.replace(
        config.data,
        path=str(local_path("path", command.path)),
        sequence_length=command.sequence_length,
        batch_size=command.batch_size,
        validation_fraction=command.validation_fraction,
        packed=False,
    )
    schedule = Cosine(warmup_steps=command.steps // 10, decay_steps=command.steps, final_fraction=0.02)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=command.full, schedule=schedule)
    return dataclasses.replace(
        config,
        steps=command.steps,
        data=data,
        optimizer=optimizer,
        evaluation=dataclasses.replace(config.evaluation, every=command.steps),
        checkpoint=dataclasses.replace(config.checkpoint, every=command.steps),
    )


def ways(command: Adapt) -> dict[str, TrainConfig]:
    """Return the runs by the names of their ways, from the fewest parameters to all."""
    config = base_config(command)

    def adapting(adapter, learning_rate):
        optimizer = dataclasses.replace(config.optimizer, learning_rate=learning_rate, weight_decay=0.0)
        return dataclasses.replace(config, adapter=adapter, optimizer=optimizer)

    lora = LoRA(rank=command.rank)
    return {
        "`InitialState()`": adapting(InitialState(), command.states),
        f"`{lora}`": adapting(lora, command.lora),
        "all parameters": config,
    }


def held_out(config: TrainConfig) -> Callable[[dict, Adapter | None], float]:
    """Return measure(params, adapter), the bits per byte of the whole held-out text."""
    documents, mesh = open_documents(config.data, "validation"), sharding.make_mesh(config.mesh)

    def measure(params, adapter):
        sizes = config.data.sequence_length, config.evaluation.batch_size
        evaluate = make_evaluator(config.model, mesh, *sizes, packed=False, adapter=adapter)
        return evaluate(params, documents).bits_per_byte

    return measure


def prompt(config: TrainConfig, size: int) -> np.ndarray:
    """Return tokens of the first `size` bytes of the training text, as one document."""
    documents, tokens, sizes = open_documents(config.data, "train"), [], []
    for k in range(len(documents)):
        tokens.append(documents[k])
        counted = isinstance(documents, CountsBytes)
        sizes.append(documents.num_bytes(k, 0, len(tokens[k])) if counted else np.ones(len(tokens[k]), int))
        if sum(map(np.sum, sizes)) >= size:
            break
    taken = np.searchsorted(np.cumsum(np.concatenate(sizes)), size, side="right")
    return np.concatenate([[config.data.vocabulary.start], np.concatenate(tokens)[:taken]]).astype(np.int32)


def compare(command: Adapt, root: pathlib.Path) -> list[Row]:
    """Train and measure all ways, and return their rows.

    Raises:
      KeyboardInterrupt: a signal stopped the training; the run is saved.
    """
    runs = ways(command)
    config = runs["all parameters"]
    measure = held_out(config)
    params = nested({path: jnp.asarray(each) for path, each in stored_in(command.source).stored().items()})
    rows, trained = [Row("the model as it is", 0, 0, 0.0, measure(params, None))], []
    for i, (name, run) in enumerate(runs.items()):
        print(f"\n{name}", flush=True)
        begin = time.monotonic()
        if loop.train(run, str(root / str(i))).interrupted:
            raise KeyboardInterrupt
        seconds, found = time.monotonic() - begin, open_run(str(root / str(i)))
        numbers = sum(math.prod(parameter.shape) for parameter in trained_declarations(run).values())
        trained.append(Row(name, numbers, 4 * numbers, seconds, measure(found.params, run.adapter)))
    size, begin = trained[0].size, time.monotonic()
    _, state = prefill(build(config.model), {"params": params}, prompt(config, size)[None])
    rows.append(Row("a prompt", size, size, time.monotonic() - begin, measure({**params, ADAPTER: state}, Given())))
    return rows + trained


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| way | numbers | bytes | seconds | bits per byte | gained |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        gained = rows[0].bits_per_byte - row.bits_per_byte
        cells = f"{row.numbers:,} | {row.size:,} | {row.seconds:.0f} | {row.bits_per_byte:.4f} | {gained:.4f}"
        lines.append(f"| {row.way} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    command = tyro.cli(Adapt, args=arguments, prog="python -m eval adapt")
    return write_page("adapt", arguments, command, lambda root: ("", table(compare(command, root))))
