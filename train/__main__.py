"""Provides the command line: python -m train PRESET --workdir DIR [--steps N] [--model.dim 512] ..."""

import dataclasses
import inspect
import sys
from typing import Annotated

import tyro

from recurrax.types import Dtype
from train import expressions, presets, processes
from train.allocator import keep_freed_memory
from train.cli import robust_output, user_errors
from train.compiler import avoid_unsound_fusions
from train.config import TrainConfig

USAGE = """usage: python -m train PRESET --workdir DIR [--steps N] [--SETTING VALUE ...]

Trains a preset in a working directory. The same command again goes on from where the run stands.
`python -m train PRESET --help` lists every setting; `python -m train PRESET --plan` trains nothing and says what a
device would have to hold and to do. A setting that is itself a config may be written as the expression that makes it:
--optimizer "Muon(learning_rate=0.02)". PRESET is one of these, or FILE.py:FUNCTION for one of your own:
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """Train a preset; the same command resumes the run from its last checkpoint."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workdir: str | None = None
    """Directory of the run, with config.json, versions.json, data.json, metrics.jsonl, loss.png and checkpoints/."""
    describe: bool = False
    """Print every array of the state with its sharding, parameters also with their axes and role, and exit.
    With --workdir, groups also have the norm of the newest checkpoint."""
    plan: bool = False
    """Compile the step for as many virtual devices as the mesh has, print memory, work and communication, and exit."""
    chip: str | None = None
    """With --plan: compile for this chip or slice by its own compiler (extra aot), and print its memory, collectives
    and estimated time. v5e, v5p, v6e, h100, h200; slices are written like v5e:4x4, v5p:4x4x4, h100:1x1x8."""
    profile: str | None = None
    """Steps FIRST:LAST to trace into DIR/profile; None: no trace."""
    distributed: bool = False
    """Whether this is one of several processes with their own devices; TPU pods and Slurm need no further options."""
    coordinator: str | None = None
    """HOST:PORT of process 0; None: read from the environment."""
    num_processes: int | None = None
    """Number of processes, with --coordinator."""
    process_id: int | None = None
    """Index of this process, from 0, with --coordinator."""


SETTINGS = tyro.constructors.ConstructorRegistry()
"""Command-line forms of types of settings that tyro has no form for."""


@SETTINGS.primitive_rule
def dtype_by_name(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Return the form of a dtype: its name, which the config that holds the dtype checks."""
    if info.type != Dtype:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda written: written[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


def description(preset, config: TrainConfig) -> str:
    """Return the text above the list of settings: what the preset is, and what may be written as an expression."""
    lines = [f"--{name}: {', '.join(names)}" for name, names in expressions.choices(config).items()]
    return "\n\n".join((inspect.getdoc(preset), "Settings that may be written as expressions:", *lines))


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        for name, preset in presets.PRESETS.items():
            print(f"  {presets.usage(name):<26}{inspect.getdoc(preset).splitlines()[0]}")
        return 0 if arguments else 2
    avoid_unsound_fusions()
    with user_errors():
        preset = presets.find(arguments[0])
        config, settings = expressions.apply(preset(), arguments[1:])
        command = tyro.cli(
            Command,
            default=Command(config=config),
            args=settings,
            prog=f"python -m train {arguments[0]}",
            description=description(preset, config),
            config=(tyro.conf.AvoidSubcommands,),
            registry=SETTINGS,
        )
        if command.chip is not None and not command.plan:
            raise ValueError("--chip is for plans; add --plan")
        if command.plan:
            from train import plan
            from train.programs.targets import target

            if command.chip is not None:
                chip = target(command.chip)
                chip.check_installed()
                plan.use_virtual_devices(1)
                print(plan.chip_report(plan.plan_on_chip(command.config, chip), arguments[0]))
                return 0
            plan.use_virtual_devices(plan.devices_of(command.config.mesh))
            print(plan.report(plan.make_plan(command.config), arguments[0]))
            return 0
        if command.workdir is None and not command.describe:
            raise ValueError("--workdir DIR is missing: where the run is kept")
        if command.distributed:
            processes.initialize(command.coordinator, command.num_processes, command.process_id)
        elif (command.coordinator, command.num_processes, command.process_id) != (None, None, None):
            raise ValueError("--coordinator, --num-processes and --process-id are for --distributed runs; add that")
        # Imported here, so that --help and invalid settings do not wait for these imports.
        from train import loop, sharding, state

        if command.describe:
            from recurrax.models import describe

            abstract = state.abstract_state(command.config, sharding.make_mesh(command.config.mesh))
            declared = state.declarations(command.config)
            print(describe({"params": abstract.params}, declared=declared), end="\n\n")
            print(describe(abstract.replace(params={}), "numbers of optimizer, steps and key"), end="\n\n")
            trained = state.trained_declarations(command.config)
            norms = None if command.workdir is None else state.newest_norms(command.workdir, trained)
            print(command.config.optimizer.describe(trained, norms))
            return 0
        keep_freed_memory()
        loop.train(command.config, command.workdir, profile=command.profile)
    return 0


if __name__ == "__main__":
    with robust_output():
        sys.exit(main(sys.argv[1:]))
