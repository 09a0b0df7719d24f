"""Provide recurrences as pure functions of arrays. Time is axis 1; every op returns (outputs, final state)."""

from recurrax.ops.differentiation import forward_mode
from recurrax.ops.families.causal_convolution import causal_conv1d
from recurrax.ops.families.delta_rule.api import delta_product, delta_rule
from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.families.dplr_rule.api import dplr_rule
from recurrax.ops.families.linear_attention.api import linear_attention
from recurrax.ops.families.long_convolution.api import long_convolution
from recurrax.ops.families.selective_scan.api import selective_scan
from recurrax.ops.families.state_space.api import state_space
from recurrax.ops.tokenwise import contract, linear, scale, shift

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
