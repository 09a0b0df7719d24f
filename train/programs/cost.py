"""Counts what one device does in a step: matrix products, other arithmetic, memory traffic and collectives.

It counts in the program that XLA has partitioned for one device, before any backend's own passes: its dtypes and shapes
are the same on every backend. The body of a loop counts once per iteration.
"""

import dataclasses
import math
import re

from train.programs.collectives import KINDS, Collective, collective, merged
from train.programs.hlo import Computation, Instruction, parse
from train.programs.traffic import ARITHMETIC, traffic


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work of one device in one step."""

    product_flops: tuple[tuple[str, float], ...] = ()
    """FLOPs of matrix products by the dtype of their operands."""
    other_flops: float = 0
    """All other FLOPs, one for each number computed."""
    traffic: float = 0
    """Bytes read from and written to memory."""
    collectives: tuple[Collective, ...] = ()
    uncounted_loops: tuple[str, ...] = ()
    """Loops whose trip count is unknown; their bodies count once."""

    @property
    def flops(self) -> float:
        return sum(flops for _, flops in self.product_flops) + self.other_flops

    @property
    def intensity(self) -> float:
        """FLOPs per byte of memory traffic."""
        return self.flops / max(self.traffic, 1)

    def __add__(self, other: "Cost") -> "Cost":
        products = dict(self.product_flops)
        for dtype, flops in other.product_flops:
            products[dtype] = products.get(dtype, 0) + flops
        return Cost(
            tuple(sorted(products.items())),
            self.other_flops + other.other_flops,
            self.traffic + other.traffic,
            tuple(merged(self.collectives + other.collectives)),
            tuple(sorted({*self.uncounted_loops, *other.uncounted_loops})),
        )

    def times(self, n: float) -> "Cost":
        return Cost(
            tuple((dtype, n * flops) for dtype, flops in self.product_flops),
            n * self.other_flops,
            n * self.traffic,
            tuple(dataclasses.replace(c, payload=n * c.payload, count=n * c.count) for c in self.collectives),
            self.uncounted_loops,
        )


def program_cost(text: str) -> Cost:
    """Return the cost of one run of a partitioned program."""
    computations, entry = parse(text)
    known: dict[str, Cost] = {}

    def cost(name: str) -> Cost:
        if name not in known:
            computation = computations[name]
            total = Cost(traffic=traffic(computation))
            for instruction in computation.instructions.values():
                total += of(instruction, computation)
            known[name] = total
        return known[name]

    def of(instruction: Instruction, computation: Computation) -> Cost:
        opcode = instruction.opcode
        if opcode == "while":
            (body,), (condition,) = instruction.computations("body"), instruction.computations("condition")
            count = trip_count(computations[condition])
            one = cost(body)
            if count is None:
                return dataclasses.replace(one, uncounted_loops=(*one.uncounted_loops, instruction.op_name))
            return one.times(count)
        if opcode == "conditional":
            names = instruction.computations("branch_computations") or (
                *instruction.computations("true_computation"),
                *instruction.computations("false_computation"),
            )
            return max(map(cost, names), key=lambda branch: (branch.flops, branch.traffic))
        if opcode in KINDS:
            found = collective(instruction, computation)
            return Cost() if found is None else Cost(collectives=(found,))
        if opcode in ("dot", "convolution"):
            return Cost(product_flops=(_product(instruction, computation),))
        if opcode in ARITHMETIC:
            return Cost(other_flops=instruction.size)
        if opcode in ("reduce", "scatter", "sort", "reduce-window"):
            return Cost(other_flops=max(operand.size for operand in _operands(instruction, computation)))
        if opcode == "fft":
            length = math.prod(instruction.dimensions("fft_length"))
            return Cost(other_flops=5 * instruction.size * math.log2(max(length, 2)))
        if opcode == "triangular-solve":
            # Half the FLOPs of a product with the matrix.
            return Cost(other_flops=instruction.size * _operands(instruction, computation)[0].result[0].shape[-1])
        return Cost()

    return cost(entry)


def _operands(instruction, computation) -> list[Instruction]:
    return [computation.instructions[name] for name in instruction.operands]


def _product(instruction, computation) -> tuple[str, float]:
    """Return the dtype and the FLOPs: two for each number of the result and each term of its sum."""
    left, right = (operand.result[0] for operand in _operands(instruction, computation))
    if instruction.opcode == "dot":
        terms = math.prod(left.shape[axis] for axis in instruction.dimensions("lhs_contracting_dims"))
    else:
        kernel = re.search(r"_(\w+)->", instruction.attribute("dim_labels"))[1]
        terms = right.size // right.shape[kernel.index("o")]
    return left.dtype, 2.0 * instruction.size * terms


def trip_count(condition: Computation) -> int | None:
    """Return the trip count of a loop whose condition is `i < constant`, from 0 on as JAX writes it; else None."""
    root = condition.instructions[condition.root]
    operands = _operands(root, condition)
    if root.opcode != "compare" or root.attribute("direction") != "LT":
        return None
    if [one.opcode for one in operands] != ["get-tuple-element", "constant"] or operands[0].result[0].dtype != "s32":
        return None
    return int(operands[1].literal)
