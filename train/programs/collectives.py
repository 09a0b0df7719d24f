"""Reads the collectives of a program: their kinds, the devices that they join, and the bytes that each device sends."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from train.programs.hlo import Computation, Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
REORDERED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over one group of devices in a step."""

    kind: str
    devices: tuple[int, ...]
    """The group that contains device 0, or the first listed one."""
    dtype: str
    payload: float
    """Bytes of the whole array that is gathered, reduced or permuted."""
    count: float = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends along a ring: the whole array except its own part, twice for an all-reduce."""
        others = (len(self.devices) - 1) / len(self.devices)
        return self.payload * {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)

    def axes(self, sizes: dict[str, int]) -> tuple[str, ...]:
        """Return the mesh axes along which the devices of the group differ."""
        places = np.array(np.unravel_index(self.devices, tuple(sizes.values())))
        return tuple(axis for axis, along in zip(sizes, places, strict=True) if len(set(along.tolist())) > 1)


def collective(instruction: Instruction, computation: Computation) -> Collective | None:
    """Return the collective of this instruction, or None if its group is a single device."""
    devices = group(instruction.attributes)
    if len(devices) < 2:
        return None
    kind = instruction.opcode.removesuffix("-start")
    given = sum(computation.instructions[name].nbytes for name in instruction.operands)
    # An asynchronous one returns its operands beside its results.
    made = instruction.nbytes - (given if kind != instruction.opcode else 0)
    payload = made if kind == "all-gather" else given
    if kind == "all-reduce" and _only_a_part_is_used(instruction, computation, len(devices)):
        kind = "reduce-scatter"
    return Collective(kind, devices, instruction.result[0].dtype, payload)


def group(attributes: str) -> tuple[int, ...]:
    """Return the first group in a collective's attributes, in any of XLA's notations.

    Raises:
      ValueError: the notation is unknown.
    """
    if found := LISTED.search(attributes):
        return _numbers(found[1])
    if found := PAIRS.search(attributes):
        return int(found[1]), int(found[2])
    if found := REORDERED.search(attributes):
        return tuple(_ordered(found[3], found[4]).reshape(int(found[1]), int(found[2]))[0].tolist())
    if found := MESH.search(attributes):
        names, sizes = zip(*re.findall(r"'([^']+)'=(\d+)", found[1]), strict=True)
        sizes = tuple(map(int, sizes))
        devices = _ordered(found[2] or str(math.prod(sizes)), found[3]).reshape(sizes)
        index: list = [0] * len(sizes)
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found[4]):
            axis = names.index(name)
            # 'x':(k)n is the part of n in the middle of an axis of k * n * rest.
            rest = sizes[axis] // (int(before) * int(size)) if size else 1
            index[axis] = slice(0, rest * int(size), rest) if size else slice(None)
        return tuple(np.ravel(devices[tuple(index)]).tolist())
    raise ValueError(f"cannot read the group of devices in {attributes[:200]!r}")


def _numbers(text) -> tuple[int, ...]:
    return tuple(int(number) for number in (text or "").split(",") if number)


def _ordered(shape, permutation):
    """Return the device numbers in the order that [2,4]T(1,0) means."""
    sizes = _numbers(shape)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_numbers(permutation) or None).ravel()


def _only_a_part_is_used(instruction, computation, parts):
    """Return whether each device slices its own part out of a sum: on GPU and TPU XLA makes it a reduce-scatter."""
    users = [other for other in computation.instructions.values() if instruction.name in other.operands]
    return bool(users) and all(
        user.opcode == "dynamic-slice" and user.nbytes * parts == instruction.nbytes for user in users
    )


def merged(collectives: Sequence[Collective]) -> list[Collective]:
    """Return the collectives summed by kind, group and dtype, the largest first."""
    found: dict[tuple, Collective] = {}
    for one in collectives:
        key = (one.kind, one.devices, one.dtype)
        before = found.get(key, dataclasses.replace(one, payload=0, count=0))
        found[key] = dataclasses.replace(before, payload=before.payload + one.payload, count=before.count + one.count)
    return sorted(found.values(), key=lambda one: -one.sent)
