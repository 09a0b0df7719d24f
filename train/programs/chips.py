"""Provides peak rates of accelerators, and the time that a program takes at these rates.

The rates are those of the makers' data sheets: NVIDIA's H100 and H200 SXM (matrix products without sparsity), and
Google Cloud's pages on TPU v5e, v5p and v6e. None was measured here. No chip reaches them: matrix products of real
shapes run at 40 to 80 % of the peak.
"""

import dataclasses

from train.programs.collectives import Collective
from train.programs.cost import Cost

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, per second."""

    name: str
    bfloat16: float
    """FLOPs of matrix products in bfloat16."""
    float32: float
    """FLOPs of matrix products in full float32: by CUDA cores on an H100, in six bfloat16 passes on a TPU."""
    memory: float
    """Capacity of the memory, in bytes."""
    bandwidth: float
    """Bytes per second read from and written to the memory."""
    near: float
    """Bytes that a device sends along a ring in its node (NVLink) or an axis of its torus (ICI, both directions)."""
    far: float
    """Bytes that a device sends where the ring leaves the node: a 400 Gb/s card per GPU. A TPU pod has no nodes."""
    node: int | None
    """Devices of a node; None: all devices of a ring are near."""
    platform: str
    """The platform of its programs, a name of `recurrax.ops.platforms`."""
    axes: int
    """Number of axes of a slice of several chips."""
    clock: float | None = None
    """Cycles per second of a TPU: its peak rate over the FLOPs that its matrix units do in a cycle. None: no TPU."""

    @property
    def key(self) -> str:
        """The name on the command line, such as v5e or h100."""
        return self.name.removeprefix("TPU ").lower()

    def network_seconds(self, collective: Collective) -> float:
        nodes = {device // self.node for device in collective.devices} if self.node else {0}
        return collective.sent / (self.near if len(nodes) == 1 else self.far)


def _tpu(name, bfloat16, memory, bandwidth, axis, axes, clock):
    return Chip(name, bfloat16, bfloat16 / 6, memory, bandwidth, axis, axis, None, "tpu", axes, clock)


CHIPS = (
    Chip("H100", 989e12, 67e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 8, "cuda", 3),
    Chip("H200", 989e12, 67e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 8, "cuda", 3),
    # An axis of the torus has two ports of 50 GB/s each way on v5e, of 100 GB/s on v5p and v6e.
    _tpu("TPU v5e", 197e12, 16 * GB, 819 * GB, 100 * GB, 2, 1.5e9),
    _tpu("TPU v5p", 459e12, 95 * GB, 2765 * GB, 200 * GB, 3, 1.75e9),
    _tpu("TPU v6e", 918e12, 32 * GB, 1638 * GB, 200 * GB, 2, 1.75e9),
)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step in which each part runs at the chip's peak rate."""

    compute: float
    memory: float
    network: float

    @property
    def overlapped(self) -> float:
        """Time if all three parts run at once, the slowest of them: no program is faster."""
        return max(self.compute, self.memory, self.network)

    @property
    def in_turn(self) -> float:
        """Time if the three parts run one after the other."""
        return self.compute + self.memory + self.network


def times(cost: Cost, chip: Chip) -> Times:
    """Return the times of matrix products, memory traffic (with other arithmetic) and collectives."""
    rates = {"bf16": chip.bfloat16, "f16": chip.bfloat16}
    compute = sum(flops / rates.get(dtype, chip.float32) for dtype, flops in cost.product_flops)
    network = sum(map(chip.network_seconds, cost.collectives))
    return Times(compute, cost.traffic / chip.bandwidth, network)
