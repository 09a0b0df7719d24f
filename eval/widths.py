"""Finds the best learning rate at several widths, standard and muP: `python -m eval widths`.

All runs see the same batches of the sources of Python's own standard library. The loss is the mean over the last tenth
of the steps.
"""

import dataclasses
import math
import pathlib

import jax
import tyro

from eval.page import write_page
from recurrax import checks
from recurrax.mixers import GLA, LRU, Attention, MixerConfig
from recurrax.models import LanguageModelConfig
from recurrax.projections import GLU
from train import sharding
from train.config import TrainConfig
from train.data import VOCAB_SIZE, DataConfig, open_data, train_batches
from train.optimizers import AdamW, Cosine
from train.parametrization import MuP, Standard
from train.sharding import MeshConfig
from train.state import abstract_state, init_state
from train.step import make_train_step
from train.workdir import computed_once

HEAD = 16
"""Width of a head; wider models have more heads."""
KINDS = ("GLA", "LRU", "Attention")


@dataclasses.dataclass(frozen=True)
class Widths:
    """Train models of several widths at several learning rates and write tables. The same command resumes."""

    workdir: str
    """Directory of the measurements."""
    mixers: tuple[str, ...] = KINDS
    """Mixers to compare."""
    dims: tuple[int, ...] = (64, 256)
    """Widths; the first is the base of muP."""
    exponents: tuple[int, ...] = (-10, -9, -8, -7, -6, -5, -4)
    """Learning rates, as powers of 2."""
    steps: int = 300
    """Steps of each training."""
    seeds: int = 1
    """Number of seeds, of first values and of batches, over which each loss is averaged."""
    output: str | None = None
    """Markdown file to write; None: WORKDIR/widths.md."""

    def __post_init__(self):
        checks.positive(self, "steps", "seeds")
        for name in self.mixers:
            checks.choice("mixer", name, KINDS)


def mixer(name: str, dim: int) -> MixerConfig:
    """Return the mixer of this name for a model of this width."""
    heads = dim // HEAD
    return {
        "GLA": GLA(num_heads=heads),
        "LRU": LRU(state_dim=dim),
        "Attention": Attention(num_heads=heads, window=128),
    }[name]


def config_of(command: Widths, name: str, dim: int, exponent: int, scaled: bool) -> TrainConfig:
    """Return the run of one width and learning rate."""
    model = LanguageModelConfig(
        vocab_size=VOCAB_SIZE,
        dim=dim,
        num_layers=2,
        pattern=(mixer(name, dim),),
        projection=GLU(expansion=2.0),
        tied_head=False,
    )
    return TrainConfig(
        steps=command.steps,
        model=model,
        parametrization=MuP(command.dims[0]) if scaled else Standard(),
        data=DataConfig(dataset="python_stdlib", sequence_length=128, batch_size=8),
        optimizer=AdamW(
            learning_rate=2.0**exponent,
            schedule=Cosine(warmup_steps=command.steps // 10, decay_steps=command.steps),
            weight_decay=0.0,
        ),
        mesh=MeshConfig(data=1),
    )


def loss_of(config: TrainConfig) -> float | None:
    """Return the mean loss of the last tenth of the steps in nats; None if it is not finite."""
    mesh = sharding.make_mesh(config.mesh)
    abstract = abstract_state(config, mesh)
    step, state, losses = make_train_step(config, abstract, mesh), init_state(config, abstract), []
    rows, _, _ = open_data(config.data, lambda line: None)
    batches, split = train_batches(rows, config.data, config.seed), sharding.batch_sharding(mesh)
    for _, batch in zip(range(config.steps), batches, strict=False):
        state, metrics = step(state, sharding.to_devices(batch, split))
        losses.append(metrics["loss"])
    batches.close()
    last = jax.device_get(losses[-max(config.steps // 10, 1) :])
    mean = math.fsum(map(float, last)) / len(last)
    return mean if math.isfinite(mean) else None


def compare(command: Widths, root: pathlib.Path) -> dict[str, dict[str, list[float | None]]]:
    """Return the losses by mixer and by width and parametrization, one for each learning rate."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for name in command.mixers:
        for dim in command.dims:
            for scaled in (False, True) if dim != command.dims[0] else (False,):
                label = f"{dim}, {'muP' if scaled else 'both' if dim == command.dims[0] else 'standard'}"
                for exponent in command.exponents:
                    config = config_of(command, name, dim, exponent, scaled)
                    losses = [kept(root, f"{name}-{dim}-{scaled}-{exponent}", config, i) for i in range(command.seeds)]
                    loss = None if None in losses else math.fsum(losses) / len(losses)
                    print(f"{name}, width {label}, 2^{exponent}: {loss}", flush=True)
                    found.setdefault(name, {}).setdefault(label, []).append(loss)
    return found


def kept(root: pathlib.Path, name: str, config: TrainConfig, seed: int) -> float | None:
    """Return the loss of one run, which is measured once."""
    file = root / f"{name}-{config.steps}{f'-{seed}' if seed else ''}.json"

    def compute():
        loss = loss_of(dataclasses.replace(config, seed=seed))
        jax.clear_caches()
        return {"loss": loss}

    return computed_once(file, compute)["loss"]


def above(command: Widths) -> str:
    """Return what the page says before its table."""
    return f"""# Learning rates of widths

The loss of small language models, two layers of one mixer, at several learning rates and widths, with the standard
parametrization and with muP, which are the same at the base width. A bold loss is the best of its line. Losses are
means over the last tenth of {command.steps} steps of 8 x 128 bytes of Python's standard library, in nats; all runs see
the same batches. Each is the mean of {command.seeds} seeds; differences of a few thousandths say nothing."""


def table(found: dict[str, dict[str, list[float | None]]], exponents: tuple[int, ...]) -> str:
    """Return the losses as a Markdown table; the best of each line is bold."""
    lines = ["| mixer | width | " + " | ".join(f"2^{e}" for e in exponents) + " |"]
    lines.append("|---|---|" + "---:|" * len(exponents))
    for name, widths in found.items():
        for label, losses in widths.items():
            best = min((loss for loss in losses if loss is not None), default=None)
            cells = ["-" if x is None else f"**{x:.3f}**" if x == best else f"{x:.3f}" for x in losses]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    command = tyro.cli(Widths, args=arguments, prog="python -m eval widths")
    return write_page(
        *("widths", arguments, command), lambda root: (above(command), table(compare(command, root), command.exponents))
    )
