"""Plans a training step on a named chip or slice: its own compiler compiles the real step, and no chip is needed."""

import dataclasses
import math

import jax

from train import sharding
from train.config import TrainConfig
from train.plan.page import bytes_text, collectives_table, heading, seconds_text, table
from train.plan.program import lowered_step
from train.programs.compiled import Compiled, compile_for
from train.programs.estimate import PASSES
from train.programs.targets import Target


@dataclasses.dataclass(frozen=True)
class ChipPlan:
    """A training step, compiled for the devices of a target."""

    compiled: Compiled
    mesh: dict[str, int]
    tokens: int
    """Tokens of a step on all devices."""
    parameter_count: int

    @property
    def model_flops(self) -> float:
        """FLOPs of a step on one device if only products with parameters count: 6 per parameter and token."""
        return 6.0 * self.parameter_count * self.tokens / math.prod(self.mesh.values())

    @property
    def peak_share(self) -> float | None:
        """`model_flops` over what the chip does at its peak rate for bfloat16 in the estimated time."""
        seconds = self.compiled.estimated_seconds
        return None if seconds is None else self.model_flops / seconds / self.compiled.target.chip.bfloat16


def plan_on_chip(config: TrainConfig, target: Target) -> ChipPlan:
    """Compile the training step of this run for a target, with the compiler of its platform.

    Raises:
      ValueError: the compiler is not installed, or the config does not fit its mesh or the mesh not the target.
      jax.errors.JaxRuntimeError: the compiler refuses the step, for example because it exceeds the memory.
    """
    devices = target.devices()
    mesh = sharding.make_mesh(config.mesh, devices)
    if mesh.size != len(devices):
        axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise ValueError(f"{target.name} has {len(devices)} devices, the mesh {axes} has {mesh.size}; set --mesh.data")
    lowered, abstract = lowered_step(config, mesh)
    return ChipPlan(
        compiled=compile_for(target, lowered),
        mesh=dict(mesh.shape),
        tokens=config.data.batch_size * config.data.sequence_length,
        parameter_count=sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
    )


def chip_report(plan: ChipPlan, name: str) -> str:
    """Return the plan as a page of text, per device and step."""
    compiled, chip = plan.compiled, plan.compiled.target.chip
    lines = [
        *heading(name, plan, f"{compiled.target.name} ({chip.name}) by its own compiler", compiled.seconds),
        *table(
            [
                ("arguments", bytes_text(compiled.arguments), "parameters, optimizer and batch"),
                ("temporaries", bytes_text(compiled.temporaries), ""),
                ("peak", bytes_text(compiled.peak), f"{'fits' if compiled.fits else 'does not fit'} {chip.name}"),
                ("code", bytes_text(compiled.code), ""),
            ]
        ),
    ]
    if compiled.collectives:
        lines += ["", *collectives_table(compiled.collectives, plan.mesh)]
        network = sum(map(chip.network_seconds, compiled.collectives))
        lines.append(f"{seconds_text(network)} at the peak rate of the network, if nothing else ran meanwhile")
    if compiled.estimate is None:
        return "\n".join((*lines, "", f"The compiler of {chip.name} estimates no times; nothing was measured."))
    lines += ["", *table(_by_layer(compiled)), ""]
    lines += [f"counted as one iteration: the loop {loop}" for loop in compiled.estimate.uncounted_loops]
    kernels = sum(compiled.estimate.kernels.values())
    if kernels:
        names = ", ".join(sorted(compiled.estimate.kernels))
        lines.append(
            f"{seconds_text(kernels / chip.clock)} of it in kernels, by the length of their schedules: {names}"
        )
    seconds = compiled.estimated_seconds
    lines += [
        f"Estimated step time: {seconds_text(seconds)}, {plan.tokens / seconds:,.0f} tokens/s; 6 FLOPs per parameter "
        f"and token are {plan.peak_share:.0%} of the peak rate.",
        "This is the compiler's own estimate of its schedule, without collectives and waiting; nothing was measured.",
    ]
    return "\n".join(lines)


def _by_layer(compiled):
    """Return rows of estimated milliseconds by layer and pass, the longest layer first."""
    cycles, clock = compiled.estimate.cycles, compiled.target.chip.clock
    layers = sorted({layer for layer, _ in cycles}, key=lambda layer: -_sum(cycles, layer))
    passes = [each for each in PASSES if any(which == each for _, which in cycles)]
    yield ("estimated ms", *passes, "all", "share")
    for layer in layers:
        of_passes = [cycles.get((layer, each)) for each in passes]
        whole = _sum(cycles, layer)
        yield (
            layer,
            *("" if each is None else f"{1e3 * each / clock:.2f}" for each in of_passes),
            f"{1e3 * whole / clock:.2f}",
            f"{whole / compiled.estimate.total:.0%}",
        )


def _sum(cycles, layer):
    return sum(each for (name, _), each in cycles.items() if name == layer)
