"""Recurrences as pure functions of arrays. Time is axis 1; every op returns (outputs, final state)."""

from recurrax.ops.convolution import causal_conv1d
from recurrax.ops.diagonal.api import diagonal_scan
from recurrax.ops.linear import linear

__all__ = ["causal_conv1d", "diagonal_scan", "linear"]
