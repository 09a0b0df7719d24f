"""Names for what stands in a layer's formula, so that others can find it there: `recurrax.probes` does.

    values              what is mixed: right after its projection, before convolution and activation
    values_real, _imag  the parts of complex values
    mixed               what goes into the output projection
    coefficients        computed from the values, but a gate or a key, by which others are mixed
    log_decay           log of what a state, a channel or a head keeps of itself at this step
    step, rate          factors of such a logarithm, (B, T, E) and (E, N), where the product is never made
    eigenvalues         of the transition, where it is diagonal; log_eigenvalues: their logarithms
    less_identity       a transition that is not, minus the identity
    beta, keys          of a delta rule, whose transition has the eigenvalue 1 - beta |k|^2
    removal_key, _rate  a and b of the transition diag(w) + b a^T
    ..._gate            the value of a sigmoid

Everything from the values to `mixed` is then linear in the values, as long as coefficients, and what nonlinear
functions make of the values, are taken as given (arXiv 2405.16504). To mark an array costs nothing: it is an identity
that compilers never see, and that policies of jax.checkpoint keep or recompute as they do everything else.
"""

from jax.ad_checkpoint import checkpoint_name

from recurrax.types import Array


def mark(name: str, x: Array) -> Array:
    """x, under this name in the program."""
    return checkpoint_name(x, name)
