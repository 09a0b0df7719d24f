"""Compute the ops and their gradients step by step in NumPy float64, written by hand.

No JAX is imported, so that no mistake is shared with the library. Each function has the name of its op and takes
`inputs`, a dict of the op's arguments by name (an argument that is missing or None is not used), for matrix states
`scale`, and `cotangents` (do, dS) of the outputs and of the last state, or None. Each returns the outputs o, the last
state S, and a dict of gradients by name, which is empty without cotangents. Gradients of complex arrays are linear
transposes, as JAX's are: nothing is conjugated.
"""

from eval.oracles.convolutions import causal_conv1d, long_convolution
from eval.oracles.matrix_state import delta_product, delta_rule, dplr_rule, linear_attention
from eval.oracles.vector_state import diagonal_scan, selective_scan, state_space

__all__ = [
    "causal_conv1d",
    "delta_product",
    "delta_rule",
    "diagonal_scan",
    "dplr_rule",
    "linear_attention",
    "long_convolution",
    "selective_scan",
    "state_space",
]
