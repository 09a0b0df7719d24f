"""What accelerators can do at most, and how long a program's work takes them at that rate.

From the makers' data sheets: NVIDIA's H100 and H200 SXM (products without sparsity), Google Cloud's pages on TPU v5e,
v5p and v6e. Nothing here was measured: no chip reaches these figures, products of real shapes get 40 to 80 % of them.
"""

import dataclasses

from train.plan.collectives import Collective
from train.plan.cost import Cost

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, per second."""

    name: str
    bfloat16: float
    """FLOPs of products of bfloat16."""
    float32: float
    """FLOPs of products of float32 at full precision: an H100's CUDA cores, six bfloat16 passes on a TPU."""
    memory: float
    """Bytes it holds."""
    bandwidth: float
    """Bytes from and to its memory."""
    near: float
    """Bytes one device sends along a ring: of its node (NVLink), or of one axis of its torus (ICI, both ways round)."""
    far: float
    """Bytes one device sends where the ring leaves the node: a 400 Gb/s card per GPU. A TPU pod has no such border."""
    node: int | None
    """Devices of a node; None: all are near."""

    def network_seconds(self, collective: Collective) -> float:
        nodes = {device // self.node for device in collective.devices} if self.node else {0}
        return collective.sent / (self.near if len(nodes) == 1 else self.far)


def _tpu(name, bfloat16, memory, bandwidth, axis):
    return Chip(name, bfloat16, bfloat16 / 6, memory, bandwidth, axis, axis, None)


CHIPS = (
    Chip("H100", 989e12, 67e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 8),
    Chip("H200", 989e12, 67e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 8),
    # An axis of the torus has two ports of 50 GB/s each way on v5e, of 100 GB/s on v5p and v6e.
    _tpu("TPU v5e", 197e12, 16 * GB, 819 * GB, 100 * GB),
    _tpu("TPU v5p", 459e12, 95 * GB, 2765 * GB, 200 * GB),
    _tpu("TPU v6e", 918e12, 32 * GB, 1638 * GB, 200 * GB),
)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step, if each part runs at the chip's peak."""

    compute: float
    memory: float
    network: float

    @property
    def overlapped(self) -> float:
        """All three at once: the slowest decides. No program is faster."""
        return max(self.compute, self.memory, self.network)

    @property
    def in_turn(self) -> float:
        """One after the other."""
        return self.compute + self.memory + self.network


def times(cost: Cost, chip: Chip) -> Times:
    """Of products, of memory traffic and of exchanges. Arithmetic other than products is taken as bound by memory."""
    rates = {"bf16": chip.bfloat16, "f16": chip.bfloat16}
    compute = sum(flops / rates.get(dtype, chip.float32) for dtype, flops in cost.product_flops)
    network = sum(map(chip.network_seconds, cost.collectives))
    return Times(compute, cost.traffic / chip.bandwidth, network)
