"""Provide marks: names for arrays within a layer's formula, by which `recurrax.probes` finds them.

    values              the mixed values, right after their projection, before convolution and activation
    values_real, _imag  their parts, if they are complex
    mixed               the input of the output projection
    hidden              the hidden units of a projection
    matrix_state        the state (B, H, K, V) after the last token, with the column of a normalizer if there is one
    coefficients        arrays that depend on the values but are held constant, such as gates and keys
    log_decay           logarithm of the decay factor of a state, a channel or a head at each step
    step, rate          factors of such a logarithm, (B, T, E) and (E, N), where their product is never computed
    eigenvalues         eigenvalues of a diagonal transition; log_eigenvalues: their logarithms
    less_identity       a dense transition minus the identity
    beta, keys          of a delta rule, whose transition has the eigenvalue 1 - beta |k|^2
    removal_key, _rate  a and b of the transition diag(w) + b a^T
    ..._gate            the value of a sigmoid gate

Everything between the values and `mixed` is linear in the values if the coefficients and the outputs of nonlinear
functions are held constant (arXiv 2405.16504). A mark adds nothing to the compiled program: it is an identity, which
policies of jax.checkpoint store or recompute like its input. While a probe is active it is also a site of the layer,
which can be recorded and replaced (`recurrax.sites`).
"""

from jax.ad_checkpoint import checkpoint_name

from recurrax import sites
from recurrax.types import Array


def mark(name: str, x: Array) -> Array:
    """Return x, under this name in the program."""
    return checkpoint_name(sites.marked(name, x), name)
