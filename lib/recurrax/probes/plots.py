"""Plot the results of probes on axes of the caller: the library itself does not import matplotlib."""

from typing import Any

import numpy as np
from jaxtyping import Inexact

from recurrax.probes.attention import LayerAttention


def plot_attention(
    axes: Any, layer: LayerAttention, *, sequence: int = 0, head: int | None = None, labels: list[str] | None = None
) -> Any:
    """Draw a heat map of |M|, the weight of each token (column) in each (row): the mean over channels or over a head's.

    Args:
      axes: a matplotlib Axes.
      layer: one of the results of `implicit_attention`.
      sequence: index in the batch.
      head: index of the head; None is all channels.
      labels: tick labels, one per token.

    Returns:
      The image, for a colour bar.

    Raises:
      ValueError: the layer has no matrix; no such sequence or head; labels that are not one per token.
    """
    weights = layer.heads
    batch, heads, length, columns = weights.shape
    if not 0 <= sequence < batch:
        raise ValueError(f"sequence must be from 0 to {batch - 1}, got {sequence}")
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head must be from 0 to {heads - 1}, or None for all, got {head}")
    if labels is not None and len(labels) != length:
        raise ValueError(f"labels must be one for each of {length} tokens, got {len(labels)}")
    shown = weights[sequence].mean(0) if head is None else weights[sequence, head]
    # All columns of a token together are as wide as its row is high.
    extent = (-0.5, length - 0.5, length - 0.5, -0.5)
    image = axes.imshow(shown, cmap="magma_r", vmin=0, extent=extent, interpolation="nearest", aspect="equal")
    axes.set_title(layer.name if head is None else f"{layer.name}, head {head}")
    axes.set_xlabel("read")
    axes.set_ylabel("at")
    if labels is not None:
        axes.set_xticks(range(length), labels)
        axes.set_yticks(range(length), labels)
    return image


def plot_eigenvalues(axes: Any, eigenvalues: Inexact[np.ndarray, "..."], *, label: str | None = None) -> None:
    """Draw complex eigenvalues as points in the unit disk, real ones as a histogram from the least, or 0, to 1.

    Args:
      axes: a matplotlib Axes; several calls draw on top of each other.
      eigenvalues: an array of any shape, as in `LayerState.eigenvalues`.
      label: label in a legend.
    """
    values = np.asarray(eigenvalues).ravel()
    if np.iscomplexobj(values):
        if not axes.patches:
            circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
            axes.fill(circle.real, circle.imag, facecolor="0.96", edgecolor="0.6", linewidth=0.8, zorder=0)
            axes.set_aspect("equal")
            axes.set_xlabel("Re")
            axes.set_ylabel("Im")
        axes.scatter(values.real, values.imag, s=10, alpha=0.7, linewidths=0, label=label)
        return
    low = min(0.0, float(values.min()))
    bins = np.linspace(low, max(1.0, float(values.max())), 41)
    axes.hist(
        values, bins, weights=np.full(len(values), 1 / len(values)), histtype="stepfilled", alpha=0.5, label=label
    )
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("share")
