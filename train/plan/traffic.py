"""Bytes that a program reads from and writes to memory, if all that is elementwise is fused.

Everything elementwise between two products (or loops, exchanges, sums) is one kernel, which reads each of its inputs
once and writes each of its results once. A compiler fuses less; a kernel written by hand, that keeps a whole chunk of
a recurrence on the chip, may fuse more.
"""

from train.plan.hlo import Computation

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
# Of what these read only the part that is taken counts.
TAKES = frozenset({"slice", "dynamic-slice", "gather"})
# A sum is the end of a kernel: whoever reads it waits for all of it.
ELEMENTWISE = ARITHMETIC | MOVES | TAKES | {"reduce"}
JOINS = ELEMENTWISE - {"reduce"}
# Other names for the same bytes.
NAMES = frozenset({"bitcast", "reshape", "optimization-barrier"})
# Numbers that a kernel makes itself, and instructions that move nothing.
MADE = frozenset({"constant", "iota", "partition-id", "replica-id"})
HANDS_ON = frozenset({"tuple", "while", "conditional"})
FREE = NAMES | MADE | HANDS_ON | {"parameter", "get-tuple-element", "after-all"}


def traffic(computation: Computation) -> float:
    """Bytes moved by one run of a computation, those of its loops left out."""
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
    """By kernel and what it reads."""
    results: set[str] = set()
    """What kernels leave in memory."""
    others = 0.0
    for name, one in instructions.items():
        sources = [source(operand) for operand in one.operands]
        if one.opcode in JOINS | {"reduce"}:
            for read in sources:
                if kernel(read) != kernel(name) and not made(read):
                    size = one.nbytes if one.opcode in TAKES else instructions[read].nbytes
                    reads[kernel(name), read] = max(reads.get((kernel(name), read), 0), size)
                    results.add(read)
        elif one.opcode in HANDS_ON:
            results.update(sources)
        elif one.opcode == "dynamic-update-slice":
            # In place: a kernel that makes the update writes it where it belongs.
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
    """The kernel that an instruction belongs to, under the name of one of its members."""
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
