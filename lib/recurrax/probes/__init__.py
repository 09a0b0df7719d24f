"""Probes of trained models: record and replace arrays within them, implicit attention, and reports of states."""

from recurrax.probes.anatomy import names
from recurrax.probes.attention import LayerAttention, implicit_attention
from recurrax.probes.plots import plot_attention, plot_eigenvalues
from recurrax.probes.reconstruction import linear_reconstruction
from recurrax.probes.recording import apply_and_record, intervene, record
from recurrax.probes.report import LayerState, StateReport, effective_rank, state_report

__all__ = [
    "LayerAttention",
    "LayerState",
    "StateReport",
    "apply_and_record",
    "effective_rank",
    "implicit_attention",
    "intervene",
    "linear_reconstruction",
    "names",
    "plot_attention",
    "plot_eigenvalues",
    "record",
    "state_report",
]
