"""Compiles a lowered program for its devices, and reads memory, code size, collectives and estimate."""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import jax

from train.programs.collectives import KINDS, Collective, collective, merged
from train.programs.estimate import Estimate, Executed, estimate, executed, is_kernel
from train.programs.schedules import cycles_of_kernels
from train.programs.targets import Target

USABLE = 0.92
"""The fraction of a chip's memory that a program may use: the runtime and its buffers take the rest."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler of a chip says of a program on one device; sizes are in bytes."""

    target: Target
    arguments: int
    temporaries: int
    code: int
    peak: int
    """The most memory at any moment, with arguments and results."""
    collectives: tuple[Collective, ...]
    estimate: Estimate | None
    """Estimated cycles; None for a GPU, whose compiler makes none."""
    seconds: float
    """Seconds that the compilation took."""

    @property
    def estimated_seconds(self) -> float | None:
        return None if self.estimate is None else self.estimate.total / self.target.chip.clock

    @property
    def fits(self) -> bool:
        return self.peak + self.code <= USABLE * self.target.chip.memory


def compile_for(target: Target, lowered: jax.stages.Lowered) -> Compiled:
    """Compile a program that was lowered for the devices of this target.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses the program, for example because its arrays exceed the memory.
    """
    schedules = target.schedules()
    for old in schedules.iterdir() if schedules is not None else ():
        old.unlink()
    start = time.monotonic()
    program = lowered.compile()
    seconds = time.monotonic() - start
    memory, run = program.memory_analysis(), list(executed(program.as_text()))
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        target=target,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        peak=memory.peak_memory_in_bytes or held + memory.temp_size_in_bytes,
        collectives=tuple(merged(list(collectives(run)))),
        estimate=_estimate(target, run, schedules),
        seconds=seconds,
    )


def _estimate(target, run, schedules):
    if target.chip.platform != "tpu":
        return None
    names = {each.instruction.name for each in run if is_kernel(each.instruction)}
    return estimate(run, target.chip, cycles_of_kernels(schedules, names))


def collectives(run: Iterable[Executed]) -> Iterator[Collective]:
    """Yield the collectives of a run of an optimized program, as often as they run."""
    for instruction, computation, times, _ in run:
        if instruction.opcode.removesuffix("-start") in KINDS:
            found = collective(instruction, computation)
            if found is not None:
                yield dataclasses.replace(found, payload=times * found.payload, count=times)
