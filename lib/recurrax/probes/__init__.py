"""Looking into trained models: what a layer's state remembers, and which tokens it mixes into which."""

from recurrax.probes.attention import LayerAttention, implicit_attention
from recurrax.probes.plots import plot_attention, plot_eigenvalues
from recurrax.probes.reconstruction import linear_reconstruction
from recurrax.probes.report import LayerState, StateReport, effective_rank, state_report

__all__ = [
    "LayerAttention",
    "LayerState",
    "StateReport",
    "effective_rank",
    "implicit_attention",
    "linear_reconstruction",
    "plot_attention",
    "plot_eigenvalues",
    "state_report",
]
