"""Parses the text of an XLA program into computations of instructions with shapes, operands and attributes.

It reads only what a plan needs of the language. The text is that of `HloModule.to_string`, one instruction per line:

    %dot.1 = bf16[8,32]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={...}
"""

import dataclasses
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of one array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    """The type of the result, or of every array in its tuple."""
    operands: tuple[str, ...]
    literal: str
    """The text between the parentheses, for a constant its value."""
    attributes: str

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.result)

    @property
    def size(self) -> int:
        return sum(array.size for array in self.result)

    def attribute(self, name: str) -> str | None:
        """Return the text of an attribute without its braces."""
        found = re.search(rf"\b{name}=(?:\{{([^{{}}]*)\}}|([^\s,{{}}]+))", self.attributes)
        return None if found is None else found[1] if found[1] is not None else found[2]

    def dimensions(self, name: str) -> tuple[int, ...]:
        return tuple(int(number) for number in (self.attribute(name) or "").split(",") if number)

    def computations(self, name: str) -> tuple[str, ...]:
        """Return the names of the computations that an attribute refers to."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*\}}|%[\w.\-]+)", self.attributes)
        return tuple(NAME.findall(found[1])) if found else ()

    @property
    def op_name(self) -> str:
        """The place in the traced program that the instruction comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the program, with calls inlined and without instructions that its root does not need."""

    name: str
    instructions: dict[str, Instruction]
    root: str


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Return all computations of a module by name, and the name of its entry.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry, name, lines = {}, None, None, []
    for line in text.splitlines():
        if name is None:
            if header := HEADER.match(line):
                name, lines = header[2], []
                entry = name if header[1] else entry
        elif line == "}":
            computations[name], name = _computation(name, lines, computations), None
        elif line[:1] not in (" ", ""):
            lines[-1] += line  # an attribute with line breaks in it
        elif " = " in line:
            lines.append(line)
    if entry is None:
        raise ValueError("no ENTRY computation in this text of an XLA program")
    return computations, entry


def _computation(name, lines, others):
    """Return the computation of these lines with its calls inlined; callees come first in the text."""
    instructions, root = {}, None
    for line in lines:
        instruction = _instruction(line)
        root = instruction.name if line.lstrip().startswith("ROOT ") else root
        if instruction.opcode == "call":
            instructions |= _inlined(instruction, others[instruction.computations("to_apply")[0]])
        else:
            instructions[instruction.name] = instruction
    needed, stack = set(), [root]
    while stack:
        current = stack.pop()
        if current not in needed:
            needed.add(current)
            stack += instructions[current].operands
    return Computation(name, {key: value for key, value in instructions.items() if key in needed}, root)


def _inlined(call, callee):
    """Return the instructions of a callee under unique names; its parameters and result get those of the call."""

    def renamed(name):
        return call.name if name == callee.root else f"{call.name}/{name}"

    return {
        renamed(name): dataclasses.replace(
            one,
            name=renamed(name),
            opcode="reshape" if one.opcode == "parameter" else one.opcode,
            operands=(call.operands[int(one.literal)],)
            if one.opcode == "parameter"
            else tuple(map(renamed, one.operands)),
        )
        for name, one in callee.instructions.items()
    }


def _instruction(line):
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    name = name.lstrip("%")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result = tuple(
        Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in SHAPE.findall(rest[:end])
    )
    call = rest[end:].lstrip()
    opening = call.index("(")
    closing = _closing(call, opening)
    inside = call[opening + 1 : closing]
    opcode, attributes = call[:opening], call[closing + 1 :]
    if opcode == "custom-call" and re.search(r'custom_call_target="(xla\.sdy\.|Sharding)', attributes):
        opcode = "reshape"  # a sharding annotation: another name for the value
    return Instruction(name, opcode, result, tuple(NAME.findall(inside)), inside, attributes)


def _closing(text, opening):
    """Return the position at which the parenthesis that opens here is closed."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"a parenthesis is never closed in {text!r}")
