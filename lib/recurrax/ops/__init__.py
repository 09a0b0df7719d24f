"""Provide recurrences as pure functions of arrays. Time is axis 1; every op returns (outputs, final state)."""

from recurrax.ops.convolution import causal_conv1d
from recurrax.ops.delta_rule.api import delta_product, delta_rule
from recurrax.ops.diagonal.api import diagonal_scan
from recurrax.ops.dplr_rule.api import dplr_rule
from recurrax.ops.forward_mode import forward_mode
from recurrax.ops.linear import contract, linear, scale, shift
from recurrax.ops.linear_attention.api import linear_attention
from recurrax.ops.long_convolution.api import long_convolution
from recurrax.ops.selective_scan.api import selective_scan
from recurrax.ops.state_space.api import state_space

__all__ = [
    "causal_conv1d",
    "contract",
    "delta_product",
    "delta_rule",
    "diagonal_scan",
    "dplr_rule",
    "forward_mode",
    "linear",
    "linear_attention",
    "long_convolution",
    "scale",
    "selective_scan",
    "shift",
    "state_space",
]
