"""Compiles every mixer and every preset for named chips: what their compilers take, and the size of the programs.

A mixer stands in a small model in bfloat16, once in a training step and once in the step that reads one token and goes
on from the state; a preset in its training step on a slice that holds it. Each compilation is kept in the working
directory, so the same command goes on where it was stopped.
"""

import dataclasses
import functools
import inspect
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from eval.compare.models import PATTERNS
from eval.page import write_page
from recurrax import checks
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.projections import GLU
from train import presets, sharding
from train.config import TrainConfig
from train.data import VOCAB_SIZE, DataConfig
from train.plan import use_virtual_devices
from train.plan.program import lowered_step
from train.programs.compiled import compile_for
from train.programs.targets import Target, target
from train.sharding import MeshConfig
from train.workdir import computed_once

MIB = 2**20
DIM, LAYERS, ROWS, LENGTH = 512, 2, 8, 1024
SLICES = {
    "griffin_100m": 16,
    "gla_1b": 16,
    "griffin_2b": 16,
    "gated_deltanet_hybrid_7b": 64,
}
"""Devices of the slices for presets that one device does not hold; their parameters are split over all."""


@dataclasses.dataclass(frozen=True)
class Compile:
    """Compile every mixer and every preset for chips that are not there; nothing is run. Needs the extra aot."""

    chip: str
    """Names of chips, such as v5e or v5e,v6e,h100."""
    workdir: str
    """Directory in which each compilation is kept."""
    models: str = "mixers"
    """"mixers", "presets", "all", or names such as GLA,Mamba,griffin_100m."""
    output: str | None = None
    """Markdown file; None: compile.md in the working directory."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What the compiler of a chip says of one program."""

    model: str
    program: str
    target: str
    estimated_ms: float | None = None
    """None for a GPU, whose compiler estimates nothing and gives no size of code."""
    code_mib: float = 0.0
    peak_mib: float = 0.0
    compile_s: float = 0.0
    refused: str | None = None
    """Why there is no program."""


def main(arguments: list[str]) -> int:
    """Run the command with these arguments and return the exit code."""
    config = tyro.cli(Compile, args=arguments, prog="python -m eval compile")
    targets = [target(name) for name in config.chip.split(",")]
    for each in targets:
        each.check_installed()
    names = chosen(config.models)
    use_virtual_devices(1)

    def make(root):
        found = []
        for row in rows(names, targets, root):
            print(row, flush=True)
            found.append(row)
        return "# Models, compiled for accelerators", table(found)

    return write_page("compile", arguments, config, make)


def chosen(models: str) -> list[str]:
    """Return the names of these models.

    Raises:
      ValueError: an unknown name; the message lists the choices.
    """
    alone = [name for name, preset in presets.PRESETS.items() if not inspect.signature(preset).parameters]
    groups = {"mixers": list(PATTERNS), "presets": alone, "all": [*PATTERNS, *alone]}
    if models in groups:
        return groups[models]
    for name in models.split(","):
        checks.choice("model", name, (*groups, *groups["all"]))
    return models.split(",")


def rows(names: Sequence[str], targets: Sequence[Target], root: pathlib.Path) -> Iterator[Row]:
    """Yield the row of each program of these models for each chip, compiled once."""
    for name in names:
        for chip in targets:
            programs = {"train": trained, "decode": decoded} if name in PATTERNS else {"train": trained}
            for program, lower in programs.items():
                file = root / chip.chip.key / f"{name.replace(' ', '-').replace(':', '-')}-{program}.json"
                yield Row(**computed_once(file, functools.partial(_fields, name, program, lower, chip)))


def _fields(*arguments):
    return dataclasses.asdict(_row(*arguments))


def _row(name: str, program: str, lower: Callable, chip: Target) -> Row:
    if name not in PATTERNS:
        chip = slice_of(chip, SLICES.get(name, 1))
    try:
        found = compile_for(chip, lower(name, chip))
    except jax.errors.JaxRuntimeError as error:
        return Row(name, program, chip.name, refused=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    estimated = None if found.estimated_seconds is None else 1e3 * found.estimated_seconds
    return Row(name, program, chip.name, estimated, found.code / MIB, found.peak / MIB, found.seconds)


def slice_of(chip: Target, devices: int) -> Target:
    """Return a slice of this many devices, a power of two: as square as can be, or nodes of eight GPUs."""
    if devices == 1:
        return chip
    if chip.chip.platform == "cuda":
        return Target(chip.chip, (1, max(devices // 8, 1), min(devices, 8)))
    power, sizes = devices.bit_length() - 1, []
    for axis in range(chip.chip.axes, 0, -1):
        sizes.append(1 << (power // axis))
        power -= power // axis
    return Target(chip.chip, tuple(sizes))


def trained(name: str, chip: Target) -> jax.stages.Lowered:
    """Return the training step of a mixer's model or of a preset, lowered for the devices of a slice."""
    devices = math.prod(chip.shape)
    if name in PATTERNS:
        config = TrainConfig(
            model=model_of(name),
            data=DataConfig(dataset="python_stdlib", sequence_length=LENGTH, batch_size=ROWS),
            mesh=MeshConfig(data=1),
        )
    else:
        config = presets.find(name)()
        config = dataclasses.replace(config, mesh=MeshConfig(data=1, fsdp=devices))
    return lowered_step(config, sharding.make_mesh(config.mesh, chip.devices()))[0]


def decoded(name: str, chip: Target) -> jax.stages.Lowered:
    """Return the step that reads one token of each row and goes on from the state, lowered for one device."""
    model = LanguageModel(model_of(name))
    mesh = sharding.make_mesh(MeshConfig(data=1), chip.devices())

    def on_chip(tree):
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)

    def step(params, tokens, state):
        logits, state = model.apply(params, tokens, state)
        return logits.argmax(-1), state

    tokens = jnp.zeros((ROWS, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    state = jax.eval_shape(lambda: model.init_state(ROWS))
    with sharding.on(mesh):
        return jax.jit(step, donate_argnums=2).lower(*map(on_chip, (params, tokens, state)))


def model_of(name: str) -> LanguageModelConfig:
    """Return the small model of a mixer."""
    pattern = PATTERNS[name]
    return LanguageModelConfig(
        vocab_size=VOCAB_SIZE,
        dim=DIM,
        num_layers=max(LAYERS, len(pattern)),
        pattern=pattern,
        projection=GLU(expansion=2.0),
        dtype="bfloat16",
    )


def table(found: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, a line for each model."""
    columns = list(dict.fromkeys((row.target.partition(":")[0], row.program) for row in found))
    cells = {(row.model, row.target.partition(":")[0], row.program): row for row in found}
    lines = [
        f"| model | {' | '.join(f'{chip}: {program}' for chip, program in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for model in dict.fromkeys(row.model for row in found):
        line = [_cell(cells[model, *column]) if (model, *column) in cells else "" for column in columns]
        lines.append(f"| {model} | {' | '.join(line)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    """Return the estimate and the size of the code, which GPUs lack, or the peak of memory; the slice if it is one."""
    if row.refused is not None:
        return row.refused
    if row.estimated_ms is None:
        said = f"{row.peak_mib:,.0f} MiB"
    else:
        said = f"{row.estimated_ms:.2f} ms, code {row.code_mib:.1f} MiB"
    return said + (f", {row.target}" if ":" in row.target else "")
