"""Writes docs/scaling.md: plans of the large presets and the scaling curves that they imply. Nothing is executed."""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from eval.bench.report import header, machine
from train import plan, presets
from train.paths import local_path
from train.plan import Plan
from train.plan.page import bytes_text, fits, seconds_text
from train.programs.chips import CHIPS, times
from train.sharding import MeshConfig

DEVICES = 256
TOKENS = 8192
"""Tokens per device, in both curves."""

PLANS = (
    ("gla_1b", {}, 4),
    ("gla_1b", {"fsdp": 64}, 256),
    ("gla_1b", {"fsdp": 64, "time": 4}, 256),
    ("griffin_2b", {}, 4),
    ("griffin_2b", {"fsdp": 64}, 256),
    ("griffin_2b", {"data": 4, "fsdp": 64}, 1024),
    ("gated_deltanet_hybrid_7b", {}, 1),
    ("gated_deltanet_hybrid_7b", {"fsdp": 64}, 128),
    ("gated_deltanet_hybrid_7b", {"fsdp": 64, "tensor": 4}, 256),
)
"""Preset, mesh and rows of 2,048 tokens."""
WIDTHS = (1, 4, 16, 64, 256)
LENGTHS = {2048: (64, 1), 8192: (64, 1), 32_768: (16, 4), 131_072: (4, 16), 524_288: (1, 64)}
"""Sequence length in tokens, and the sizes of the mesh axes (fsdp, time) of the 64 devices."""
GROWING = ("gla_1b", "gated_deltanet_hybrid_7b")
STRETCHED = ("gla_1b", "griffin_2b", "gated_deltanet_hybrid_7b")
DRAWN = ("H100", "TPU v5p")


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Plans the large presets on up to 256 virtual devices and writes a page about them; takes minutes on two cores."""

    output: str
    """Markdown file to write, with its figure beside it."""


def main(arguments: list[str]) -> int:
    command = tyro.cli(Scaling, args=arguments, prog="python -m eval scaling")
    output = local_path("output", command.output)
    plan.use_virtual_devices(DEVICES)
    planned = [(name, planned_for(name, mesh, rows, 2048)) for name, mesh, rows in PLANS]
    growing = {name: [planned_for(name, {"fsdp": n}, n * TOKENS // 2048, 2048) for n in WIDTHS] for name in GROWING}
    stretched = {
        name: [
            planned_for(name, {"fsdp": fsdp, "time": time}, 64 * TOKENS // length, length)
            for length, (fsdp, time) in LENGTHS.items()
        ]
        for name in STRETCHED
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = output.with_suffix(".png")
    plot(growing, stretched, picture)
    shown = f"python -m eval scaling {shlex.join(arguments)}"
    output.write_text(page(planned, growing, stretched, shown, header(machine()), picture.name))
    print(f"wrote {output} and {picture}")
    return 0


def planned_for(name: str, mesh: dict[str, int], rows: int, length: int) -> Plan:
    """Return the plan of a preset on this mesh, with batches of `rows` sequences of `length` tokens."""
    config = presets.find(name)()
    found = plan.make_plan(
        dataclasses.replace(
            config,
            model=config.model.with_context(length),
            data=dataclasses.replace(config.data, batch_size=rows, sequence_length=length),
            mesh=MeshConfig(**{"data": 1, **mesh}),
        )
    )
    print(f"{name} on {mesh or 'one device'}, {rows} x {length:,} tokens: planned in {found.seconds:.0f} s", flush=True)
    return found


def per_chip(plans: Sequence[Plan], chip_name: str) -> tuple[list[float], list[float]]:
    """Return tokens per second and chip of each plan: with compute and communication overlapped, and in sequence."""
    chip = next(chip for chip in CHIPS if chip.name == chip_name)
    found = [(p.tokens / p.devices, times(p.cost, chip)) for p in plans]
    return [tokens / t.overlapped for tokens, t in found], [tokens / t.in_turn for tokens, t in found]


def plot(growing: dict[str, list[Plan]], stretched: dict[str, list[Plan]], path: pathlib.Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    color = 0
    for name, plans in growing.items():
        for chip in DRAWN:
            _band(left, WIDTHS, plans, chip, f"{name}, {chip}", f"C{color}")
            color += 1
    for i, (name, plans) in enumerate(stretched.items()):
        _band(right, tuple(LENGTHS), plans, DRAWN[0], f"{name}, {DRAWN[0]}", f"C{(0, 4, 2)[i]}")
    left.set(title=f"More devices, {TOKENS:,} tokens on each (fsdp)", xlabel="devices")
    left.set_xticks(WIDTHS, [str(n) for n in WIDTHS])
    right.set(title="Longer sequences on 64 devices (fsdp, then time)", xlabel="tokens of a sequence")
    right.set_xticks(tuple(LENGTHS), [f"{n // 1024}k" for n in LENGTHS])
    for axes in (left, right):
        axes.set(ylabel="tokens per second and chip, planned", ylim=(0, None))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _band(axes, x, plans, chip, label, color):
    high, low = per_chip(plans, chip)
    axes.set_xscale("log", base=2)
    axes.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    axes.plot(x, high, "o-", ms=3, color=color, label=label)


def page(planned, growing, stretched, command: str, where: str, picture: str) -> str:
    """Return the page as Markdown."""
    example = plan.report(planned[2][1], planned[2][0])
    return f"""# Scaling

What the large presets ask of a device, on meshes from one device to 256, and how fast named chips could be at it. All
of it is planned and **none of it was measured**: there was no accelerator. `--plan` gives the same for any preset,
settings and mesh, in seconds, on a laptop:

    python -m train gla_1b --mesh.fsdp 64 --mesh.time 4 --plan

```
{example}
```

## How a plan is made

The training step is compiled ahead of time for virtual CPU devices from abstract arrays: no parameter exists. XLA's
partitioner makes the same program for one device as it does for GPUs and TPUs; the plan takes the program there,
before the CPU's own passes, and counts in it (`train/programs/`).

- **Simulated by the compiler, exact**: shapes, splits and dtypes; FLOPs of matrix products, recomputation included,
  loops by their trip counts; collectives by kind, mesh axes, number and bytes.
- **Exact by JAX**: bytes of parameters, optimizer and gradients on a device, and of activations (the residuals of
  `jax.vjp`).
- **Bounds**: memory in all. The lower bound has no temporaries; the upper one is what XLA's CPU compiler allocates,
  which holds bfloat16 as float32 for a while. *may fit* stands for chips between the two.
- **Estimated**: memory traffic, as if everything elementwise between two products were one kernel. XLA fuses less and
  moves more; a kernel written by hand for a recurrence keeps whole chunks on the chip and moves less.
- **Assumed**: peak rates of the data sheets, in `train/programs/chips.py`. A ring within eight GPUs has NVLink, a
  longer one a 400 Gb/s card per GPU; a TPU's ring has one axis of its torus. Products of float32 are computed at full
  precision. An all-reduce of which each device uses a part is a reduce-scatter, as XLA makes it on GPU and TPU.
- **Step time**: from all three parts overlapped, which no program beats, to one after the other.

What was measured is that the counting is right (`tests/test_plan.py`: products, traffic and collectives of small
programs worked out by hand), and that the meshes compute what one device computes (`tests/test_meshes.py`,
`tests/test_processes.py`: eight virtual devices, up to four processes).

## Plans

Rows of 2,048 tokens. *at least* and *at most* are bytes on one device; *sent* is what it sends in a step.

{plans_table(planned)}

## More devices, longer sequences

![tokens per second and chip by devices and by length of a sequence]({picture})

The upper edge of a band is all overlapped, the lower one is one after the other. Left: {TOKENS:,} tokens on each
device, parameters split over all of them. Right: 64 devices and {64 * TOKENS:,} tokens a step; from 32k tokens on
`time` takes over from `fsdp`.

{curve_table("devices (fsdp)", [f"{n}" for n in WIDTHS], growing)}

{curve_table("tokens of a sequence (fsdp x time)", [f"{n:,} ({f} x {t})" for n, (f, t) in LENGTHS.items()], stretched)}

What to read off:

- **More devices** cost next to nothing once parameters are split: what a device sends nears the size of all parameters
  and does not grow further. On GPUs the step from one node to several is where the network starts to weigh as much as
  the rest: keep `fsdp` within what overlaps, give each device more tokens, or add up gradients in bfloat16
  (`--precision.reduction bfloat16`), which saves a quarter of the bytes.
- **These programs are bound by memory traffic, not by products**, on all five chips: chunk forms in plain XLA move
  their decays and intermediate states through memory. That is what kernels for the recurrences have to win.
- **Longer sequences**: what a recurrence sends over `time` is one transition and state per shard, however long it is;
  each device gathers those of all shards, so it grows with their number. Windows and RG-LRUs send next to nothing.
  Attention without a window pays for all pairs of tokens, twice the causal half, and gathers all keys and values: at
  512k tokens a hybrid is an attention model.
- **`time` does not split parameters**: with all devices on it each one holds them all. Keep some `fsdp`.

    {command}

{where}
"""


def plans_table(planned: Sequence[tuple[str, Plan]]) -> str:
    lines = [
        "| preset | mesh | tokens | at least | at most | products, FLOPs | traffic | sent | "
        + " | ".join(f"{chip.name}" for chip in CHIPS)
        + " |",
        "|---|---|---:|---:|---:|---:|---:|---:|" + "---|" * len(CHIPS),
    ]
    for name, p in planned:
        axes = ", ".join(f"{axis}={size}" for axis, size in p.mesh.items() if size > 1) or "one device"
        cells = [name, axes, f"{p.tokens:,}", bytes_text(p.least), bytes_text(p.most)]
        cells += [f"{sum(flops for _, flops in p.cost.product_flops):.3g}", bytes_text(p.cost.traffic)]
        cells += [bytes_text(sum(one.sent for one in p.cost.collectives))]
        for chip in CHIPS:
            found = times(p.cost, chip)
            cells.append(f"{fits(p, chip)}, {seconds_text(found.overlapped)} to {seconds_text(found.in_turn)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve_table(what: str, points: Sequence[str], curves: dict[str, list[Plan]]) -> str:
    """Return a Markdown table of sent bytes and of tokens per second and chip at every point."""
    head = [f"{name}: sent | {' | '.join(f'{chip}, tokens/s and chip' for chip in DRAWN)}" for name in curves]
    lines = [f"| {what} | {' | '.join(head)} |", "|---|" + "---:|" * (1 + len(DRAWN)) * len(curves)]
    for i, point in enumerate(points):
        cells = [point]
        for plans in curves.values():
            cells.append(bytes_text(sum(one.sent for one in plans[i].cost.collectives)))
            for chip in DRAWN:
                high, low = per_chip(plans[i : i + 1], chip)
                cells.append(f"{low[0]:,.0f} to {high[0]:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
