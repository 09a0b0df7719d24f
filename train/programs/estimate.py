"""Adds up the cycles that the TPU compiler estimates for its own schedule of each operation of a program.

It writes an estimate beside every fusion, copy and product of the optimized program. A kernel written in Pallas has
none: it counts with the bundles of its schedule (`train.programs.schedules`), or with the time in which the memory
carries its arguments and results if that is longer. Collectives and waiting are not counted, and nothing was measured.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from recurrax.models.backbone import STACKS
from train.programs.chips import Chip
from train.programs.cost import trip_count
from train.programs.hlo import Computation, Instruction, parse

CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')

UPDATE = "update"
"""The pass of what is neither forward nor backward: the optimizer, and casts before the loss."""
PASSES = ("forward", "recomputed", "backward", UPDATE)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated cycles of one run of a program."""

    cycles: dict[tuple[str, str], float]
    """Cycles by layer and pass."""
    kernels: dict[str, float]
    """Cycles of kernels written in Pallas, a part of `cycles`, by name."""
    uncounted_loops: tuple[str, ...]
    """Loops whose trip count is unknown; their bodies count once."""

    @property
    def total(self) -> float:
        return sum(self.cycles.values())


class Executed(NamedTuple):
    """One instruction of an optimized program, and how it runs."""

    instruction: Instruction
    computation: Computation
    times: float
    """How often it runs."""
    known: bool
    """Whether the trip count of the loop that it is, if it is one, is known."""


def estimate(run: Iterable[Executed], chip: Chip, schedules: Mapping[str, float]) -> Estimate:
    """Return the estimate of a run of a TPU program from `executed` and the cycles of its kernels by name."""
    cycles, kernels, unknown = collections.Counter(), collections.Counter(), set()
    for instruction, computation, times, known in run:
        if found := CYCLES.search(instruction.attributes):
            cycles[place(instruction.op_name)] += times * int(found[1])
        elif is_kernel(instruction):
            read = {name: computation.instructions[name].nbytes for name in instruction.operands}  # each once
            moved = sum(read.values()) + instruction.nbytes
            longest = times * max(schedules.get(instruction.name, 0.0), moved / chip.bandwidth * chip.clock)
            cycles[place(instruction.op_name)] += longest
            kernels[instruction.op_name.split("/")[-2]] += longest
        if not known:
            unknown.add(instruction.op_name)
    return Estimate(dict(cycles), dict(kernels), tuple(sorted(unknown)))


def is_kernel(instruction: Instruction) -> bool:
    """Return whether the instruction calls a kernel written in Pallas."""
    return instruction.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in instruction.attributes


def executed(text: str) -> Iterator[Executed]:
    """Yield the instructions that a run of a program executes, from the text of its optimized form."""
    computations, entry = parse(text)

    def visit(computation: Computation, times: float):
        for instruction in computation.instructions.values():
            inner, known = _called(instruction, computations), True
            if instruction.opcode == "while":
                (condition,) = instruction.computations("condition")
                count = trip_count(computations[condition])
                known, inner = count is not None, [(name, count or 1) for name in instruction.computations("body")]
            yield Executed(instruction, computation, times, known)
            for name, count in inner:
                yield from visit(computations[name], times * count)

    yield from visit(computations[entry], 1)


def _called(instruction: Instruction, computations) -> list[tuple[str, int]]:
    """Return the computations that run where this instruction stands, but of a fusion, whose estimate is its own.

    Of a conditional it is the last branch, the default: which one is the longest is known after all are estimated.
    """
    if instruction.opcode == "conditional":
        return [(name, 1) for name in instruction.computations("branch_computations")[-1:]]
    if instruction.opcode.endswith("-start") and (names := instruction.computations("calls")):
        return [(name, 1) for name in names if name in computations]
    return []


def place(op_name: str) -> tuple[str, str]:
    """Return the layer and the pass of an operation from its place in the traced program.

    JAX writes jvp(...) around what it differentiates and transpose(...) around the backward pass, and Flax the modules:
    jit(step)/transpose(jvp(LanguageModel))/backbone/while/body/closed_call/groups/1_rglru/mixer/...
    """
    parts = op_name.split("/")
    stack = next((i for i, part in enumerate(parts) if part in STACKS), None)
    if "transpose(" in op_name:
        which = "backward"
    elif "rematted_computation" in parts:
        which = "recomputed"
    else:
        which = "forward" if "jvp(" in op_name or stack is not None else UPDATE
    if stack is not None and len(inside := parts[stack + 1 :]) > 1:
        kind = inside[0].partition("_")[2]
        return (f"{kind} {inside[1]}" if inside[1] in ("mixer", "projection") else f"{kind} norms"), which
    if which == UPDATE:
        return "optimizer", which
    return ("backbone" if "backbone" in parts else "embedding, head and loss"), which
