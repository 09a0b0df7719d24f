"""Estimates the bytes that a program reads from and writes to memory if all elementwise operations are fused.

All elementwise operations between two matrix products (or loops, collectives, sums) are one kernel, which reads each of
its inputs once and writes each of its results once. A compiler fuses less; a kernel written by hand that holds a whole
chunk of a recurrence on the chip may fuse more.
"""

from train.programs.hlo import Computation

# fmt: off
ARITHMETIC = frozenset({
    "add", "subtract", "multiply", "divide", "remainder", "maximum", "minimum", "power", "negate", "abs",
    "sign", "sqrt", "rsqrt", "cbrt", "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic",
    "tanh", "tan", "sine", "cosine", "atan2", "erf", "floor", "ceil", "round-nearest-even", "round-nearest-afz",
    "clamp", "compare", "select", "and", "or", "xor", "not", "is-finite", "complex", "real", "imag",
    "shift-left", "shift-right-logical", "shift-right-arithmetic",
})
# fmt: on
MOVES = frozenset({"broadcast", "convert", "pad", "concatenate", "transpose", "copy", "reverse", "reduce-precision"})
# These read a part of their operand, and only that part counts.
TAKES = frozenset({"slice", "dynamic-slice", "gather"})
# A sum ends a kernel: an operation that reads it needs all of it.
ELEMENTWISE = ARITHMETIC | MOVES | TAKES | {"reduce"}
JOINS = ELEMENTWISE - {"reduce"}
# Other names for the same bytes.
NAMES = frozenset({"bitcast", "reshape", "optimization-barrier"})
# Values that a kernel creates itself, and instructions that move nothing.
MADE = frozenset({"constant", "iota", "partition-id", "replica-id"})
FORWARDED = frozenset({"tuple", "while", "conditional"})
FREE = NAMES | MADE | FORWARDED | {"parameter", "get-tuple-element", "after-all"}


def traffic(computation: Computation) -> float:
    """Return the bytes moved by one run of a computation, without those of its loops."""
    instructions = computation.instructions

    def source(name):
        while instructions[name].opcode in NAMES:
            name = instructions[name].operands[0]
        return name

    def made(name):
        one = instructions[name]
        return one.opcode in MADE or (one.opcode == "broadcast" and instructions[source(one.operands[0])].size == 1)

    kernel = _kernels(instructions, source)
    reads: dict[tuple, float] = {}
    """Bytes by kernel and by the instruction that it reads."""
    results: set[str] = set()
    """Instructions whose results kernels write to memory."""
    others = 0.0
    for name, one in instructions.items():
        sources = [source(operand) for operand in one.operands]
        if one.opcode in JOINS | {"reduce"}:
            for read in sources:
                if kernel(read) != kernel(name) and not made(read):
                    size = one.nbytes if one.opcode in TAKES else instructions[read].nbytes
                    reads[kernel(name), read] = max(reads.get((kernel(name), read), 0), size)
                    results.add(read)
        elif one.opcode in FORWARDED:
            results.update(sources)
        elif one.opcode == "dynamic-update-slice":
            # The update is in place: the kernel that computes it writes it to its final address.
            results.update(sources[:2])
            others += 2 * instructions[sources[1]].nbytes * (instructions[sources[1]].opcode not in ELEMENTWISE)
        elif one.opcode not in FREE:
            results.update(sources)
            if one.opcode == "scatter":
                others += 3 * instructions[sources[-1]].nbytes
            else:
                others += one.nbytes + sum(instructions[operand].nbytes for operand in set(sources))
    results.add(source(computation.root))
    written = sum(instructions[name].nbytes for name in results if instructions[name].opcode in ELEMENTWISE)
    return others + sum(reads.values()) + written


def _kernels(instructions, source):
    """Return a function from an instruction to its kernel, which has the name of one of its members."""
    joined = {name: name for name in instructions}

    def kernel(name):
        while joined[name] != name:
            name = joined[name]
        return name

    for name, one in instructions.items():
        if one.opcode in ELEMENTWISE:
            for operand in map(source, one.operands):
                if instructions[operand].opcode in JOINS:
                    joined[kernel(operand)] = kernel(name)
    return kernel
