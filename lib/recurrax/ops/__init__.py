"""Provide recurrences as pure functions of arrays. Time is axis 1; every op returns (outputs, final state).

`OPS` are their declarations by name: arguments, summaries, test inputs and implementations.
"""

from collections.abc import Mapping
from types import MappingProxyType

from recurrax.ops.differentiation import forward_mode
from recurrax.ops.families.causal_convolution.api import CAUSAL_CONV1D, causal_conv1d
from recurrax.ops.families.delta_rule.api import DELTA_PRODUCT, DELTA_RULE, delta_product, delta_rule
from recurrax.ops.families.diagonal.api import DIAGONAL_SCAN, diagonal_scan
from recurrax.ops.families.dplr_rule.api import DPLR_RULE, dplr_rule
from recurrax.ops.families.linear_attention.api import LINEAR_ATTENTION, linear_attention
from recurrax.ops.families.long_convolution.api import LONG_CONVOLUTION, long_convolution
from recurrax.ops.families.selective_scan.api import SELECTIVE_SCAN, selective_scan
from recurrax.ops.families.state_space.api import STATE_SPACE, state_space
from recurrax.ops.op import Op, implementations
from recurrax.ops.tokenwise import contract, linear, scale, shift

OPS: Mapping[str, Op] = MappingProxyType(
    {
        op.name: op
        for op in (
            DIAGONAL_SCAN,
            LINEAR_ATTENTION,
            DELTA_RULE,
            DELTA_PRODUCT,
            DPLR_RULE,
            SELECTIVE_SCAN,
            STATE_SPACE,
            LONG_CONVOLUTION,
            CAUSAL_CONV1D,
        )
    }
)

__all__ = [
    "OPS",
    "causal_conv1d",
    "contract",
    "delta_product",
    "delta_rule",
    "diagonal_scan",
    "dplr_rule",
    "forward_mode",
    "implementations",
    "linear",
    "linear_attention",
    "long_convolution",
    "scale",
    "selective_scan",
    "shift",
    "state_space",
]
