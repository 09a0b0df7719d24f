"""recurrax: linear recurrences followed by nonlinear projections, in JAX and Flax.

`recurrax.ops` holds the recurrences as pure functions of arrays, `recurrax.mixers` the published layers built on them,
`recurrax.projections` the position-wise networks, `recurrax.models` what is composed of the two.
"""

__version__ = "0.1.0"
