"""Write docs/comparison.md and its figure."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator

from eval.compare import models
from eval.compare.measure import DECODED, STEPS, Result


def page(results: Sequence[Result], steps: int, command: str, machine: str, picture: str) -> str:
    """Return the whole page, in Markdown."""
    tokens = steps * 4 * models.LENGTH
    return f"""# Comparison of mixers

Each mixer is the only mixer of the same small language model, trained on the same {tokens:,} bytes of Python's standard
library in the same order. All models have {models.LAYERS} layers of width {models.DIM}. The width of their gated
projections gives all models the same number of parameters. All are trained by AdamW with one learning rate
({steps:,} steps of 4 x {models.LENGTH} bytes), with one seed each.

A model this small, on sequences this short, does not show which layer is the best at scale. The table shows that each
layer trains, what it costs on this machine, and how large its state is.

    {command}

{machine}

{table(results)}

- **state**: bytes of one sequence's state, all layers together; attention has a cache of {models.LENGTH} tokens.
- **train**: bytes per second of training, the median of {STEPS} steps. **decode**: bytes per second of one sequence,
  token by token, the median of calls of {DECODED} tokens. Both are measured after all models are trained, one model
  after the other.
- **held out**: bits per byte of held-out files after the last step.
- **wall**: seconds of the whole training, including compilation, evaluation and checkpoints.

![bits per byte over bytes of state]({picture})
"""


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table, best first."""
    lines = [
        "| mixer | parameters | state, bytes | train, bytes/s | decode, bytes/s | held out, bits per byte | wall, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(results, key=lambda row: row.bits_per_byte):
        lines.append(
            f"| {row.name} | {row.parameters:,} | {row.state_bytes:,} | {row.training_tokens_per_second:,.0f} "
            f"| {row.decode_tokens_per_second:,.0f} | {row.bits_per_byte:.3f} | {row.seconds:.0f} |"
        )
    return "\n".join(lines)


def plot(results: Sequence[Result], path: pathlib.Path) -> None:
    """Plot bits per byte over bytes of state, and over training speed."""
    figure = Figure(figsize=(14, 9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, label, value in (
        (left, "state per sequence, bytes", lambda row: row.state_bytes),
        (right, "training, bytes per second", lambda row: row.training_tokens_per_second),
    ):
        axis.scatter([value(row) for row in results], [row.bits_per_byte for row in results], s=18)
        # Names alternate between the two sides, from the best model on, because neighbours are often close.
        for i, row in enumerate(sorted(results, key=lambda row: row.bits_per_byte)):
            place, side = ((5, 3), "left") if i % 2 else ((-5, -8), "right")
            at = (value(row), row.bits_per_byte)
            axis.annotate(row.name, at, place, textcoords="offset points", fontsize=8, ha=side)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(MultipleLocator(0.2))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:.1f}")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.margins(x=0.15)
    left.set_ylabel("held out, bits per byte")
    figure.savefig(path, dpi=110)
