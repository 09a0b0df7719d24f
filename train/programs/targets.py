"""Names the accelerators to compile for, and gives their devices: no chip and no driver is needed.

    v5e      one chip             v5e:4x4       a slice of 16 chips
    h100     one GPU              h100:1x1x8    the eight GPUs of a node

The compilers are packages that the extra `aot` installs: libtpu for TPUs, JAX's CUDA plugin for GPUs.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import pathlib

import jax
from jax.experimental import topologies

from recurrax import checks
from train.programs import schedules
from train.programs.chips import CHIPS, Chip

BY_KEY = {chip.key: chip for chip in CHIPS}

COMPILERS = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}
"""The package that holds the compiler of a platform."""

QUIET = {
    # Several processes may compile at once; without this the second one stops at a lock.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # What libtpu would ask the cloud for, with messages on stderr where there is none.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}

GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f}
 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: {memory:.0f} shared_memory_per_block_optin: 232448
 cuda_compute_capability {{ major: 9 minor: 0 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA {name}" """
"""How XLA describes a GPU of the Hopper generation to its compiler."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A chip, or a slice of several, to compile for."""

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each axis of the slice."""

    @property
    def name(self) -> str:
        """The target as the command line names it."""
        return self.chip.key + (f":{_text(self.shape)}" if math.prod(self.shape) > 1 else "")

    def check_installed(self) -> None:
        """Raise ValueError if the compiler is not installed."""
        package = COMPILERS[self.chip.platform]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the compiler for {self.chip.name} is not installed (package {package}): pip install 'recurrax[aot]'"
            )

    def devices(self) -> list[jax.Device]:
        """Return the devices of the slice; programs can be compiled for them, not run.

        Raises:
          ValueError: the compiler is not installed, or the chip has no slice of this shape.
        """
        self.check_installed()
        self.schedules()
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        return list(_topology(self).devices)

    def schedules(self) -> pathlib.Path | None:
        """Return the folder to which the compiler writes schedules; None: it writes none."""
        return _schedules() if self.chip.platform == "tpu" else None


def target(written: str) -> Target:
    """Return the target that is written like v5e, v5e:4x4 or h100:1x1x8.

    Raises:
      ValueError: an unknown chip, or a shape that is no product of numbers or has other axes than the chip.
    """
    key, colon, shape = written.partition(":")
    checks.choice("chip", key, BY_KEY)
    chip = BY_KEY[key]
    if not colon:
        return Target(chip, (1,) * chip.axes)
    sizes = shape.split("x")
    if len(sizes) != chip.axes or not all(size.isdecimal() and int(size) for size in sizes):
        example = f"{key}:{_text((2,) * chip.axes)}"
        raise ValueError(f"{written!r}: a slice of {key} has {chip.axes} axes, such as {example}")
    return Target(chip, tuple(map(int, sizes)))


_schedules = functools.cache(schedules.written)


@functools.cache
def _topology(target):
    chip = target.chip
    if chip.platform == "cuda":
        config = GPU.format(bandwidth=chip.bandwidth, memory=chip.memory, name=chip.name)
        return topologies.get_topology_desc(
            platform="cuda", topology_name=chip.key, topology=_text(target.shape), target_config=config
        )
    alone = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(target.shape) == 1 else {}
    name = f"{chip.key}:{_text(target.shape)}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **alone)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"{name} is no slice that the TPU compiler knows: {error}") from error


def _text(shape):
    return "x".join(map(str, shape))
