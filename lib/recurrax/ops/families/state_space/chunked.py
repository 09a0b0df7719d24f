"""The form in chunks of C tokens: a state per chunk, and within chunks the first C taps of the kernel.

    U_k = sum_j A^(C-1-j) b x_{kC+j}                                    what a chunk adds to the state
    h_{k+1} = A^C h_k + U_k                                             from chunk to chunk
    y_{kC+i} = c A^(i+1) h_k + sum_{j <= i} (c A^(i-j) b) x_{kC+j}

The first and the last line are for all chunks at once. A reset cuts both sums, and A^C.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.families.state_space import powers
from recurrax.types import ArrayLike, Reset


def states(
    x: Float[Array, "B T D"], system: powers.System, h: Inexact[Array, "B D N"], reset: Reset | None, size: int
) -> tuple[Inexact[Array, "B K D N"], Inexact[Array, "B D N"]]:
    """The state that enters each chunk, and the one after the last token."""
    batch, length, dim = x.shape
    count = -(-length // size)
    full = (count - 1) * size  # the last chunk may be shorter
    columns = jnp.asarray(powers.real_columns(powers.columns(system, size)), x.dtype)
    cut = None
    if reset is not None:
        chunks = _chunks(reset, size)
        cut = chunks.any(2)
        x = jnp.where(_after(chunks).reshape(batch, -1)[:, :length, None], 0, x)

    def advance(h, x, cut):
        """h after each of the chunks x (B, K, C, D)."""
        backwards = columns[..., : x.shape[2]][..., ::-1]
        u = jnp.einsum("bkcd,dnc->bkdn", x, backwards, precision=lax.Precision.HIGHEST)
        u = powers.complex_state(u) if system.is_complex else u
        return _carry(system.a.power(x.shape[2]), h, u, cut)

    entering = h[:, None]
    if full:
        whole = x[:, :full].reshape(batch, count - 1, size, dim)
        after, h = advance(h, whole, None if cut is None else cut[:, :-1])
        entering = jnp.concatenate([entering, after], axis=1)
    _, last = advance(h, x[:, None, full:], None if cut is None else cut[:, -1:])
    return entering, last


def _carry(transition, h, u, cut):
    """h_{k+1} = A^C h_k + u_k: all states but the first, and the last of them."""
    if transition.ndim == 2:
        return diagonal_scan(jnp.exp(jnp.asarray(transition, h.dtype)), u, h, reset=cut)
    less_identity = jnp.asarray(transition, h.dtype)

    def step(h, inputs):
        u, cut = inputs
        kept = h if cut is None else jnp.where(cut[:, None, None], 0, h)
        h = kept + jnp.einsum("dmn,bdn->bdm", less_identity, kept, precision=lax.Precision.HIGHEST) + u
        return h, h

    last, after = lax.scan(step, h, (u.swapaxes(0, 1), None if cut is None else cut.swapaxes(0, 1)))
    return after.swapaxes(0, 1), last


def outputs(
    x: Float[Array, "B T D"], system: powers.System, entering: Inexact[Array, "B K D N"], reset: Reset | None, size: int
) -> Float[Array, "B T D M"]:
    """y, from the inputs of each chunk and the state that enters it."""
    batch, length, dim = x.shape
    taps = jnp.asarray(powers.kernel(system, size, size), x.dtype)
    rows = jnp.asarray(powers.real_rows(powers.rows(system, 1, 1, size)), x.dtype)
    y = jnp.einsum("bkdn,dcmn->bkcdm", powers.real_state(entering), rows, precision=lax.Precision.HIGHEST)
    cuts = None if reset is None else _chunks(reset, size)
    if cuts is not None:
        y = jnp.where(_until(cuts)[..., None, None], 0, y)
    # Channels first: every product below is one of matrices, for each channel its own.
    x = jnp.moveaxis(jnp.pad(x, ((0, 0), (0, -length % size), (0, 0))).reshape(batch, -1, size, dim), 3, 0)
    y += jnp.moveaxis(_convolve(x, taps, cuts), 0, 3)
    return y.reshape(batch, -1, *y.shape[3:])[:, :length]


@jax.checkpoint
def _convolve(x, taps, cuts):
    """sum_{j <= i} taps_{i-j} x_j within chunks: (D, B, K, C, M) of x (D, B, K, C) and taps (D, M, C).

    Resets would make the matrix of taps another one for every chunk. But what the left half of a chunk hands to its
    right half passes the border between them: a reset cuts it where it is taken up or where it arrives, the matrix
    stays. So half by half, down to single steps.
    """
    size = x.shape[3]
    if cuts is None:
        return _product(x, taps, 0, size)
    y = x[..., None] * taps[:, None, None, None, :, 0]
    half = size // 2
    while half:
        halves = x.reshape(*x.shape[:3], -1, 2, half)
        left_cuts, right_cuts = jnp.moveaxis(cuts.reshape(*cuts.shape[:2], -1, 2, half), 3, 0)
        taken = jnp.where(_after(left_cuts)[None], 0, halves[..., 0, :])
        arrived = jnp.where(_until(right_cuts)[None, ..., None], 0, _product(taken, taps, half, half))
        y += jnp.stack([jnp.zeros_like(arrived), arrived], axis=4).reshape(y.shape)
        half //= 2
    return y


def _product(x, taps, first, size):
    """sum_j taps_{first+i-j} x_j: (D, *batch, C, M) of x (D, *batch, C)."""
    lags = first + np.arange(size)[None] - np.arange(size)[:, None]
    matrix = jnp.where((lags >= 0)[None, None], taps[:, :, np.maximum(lags, 0)], 0)
    matrix = jnp.moveaxis(matrix, 1, 3).reshape(taps.shape[0], size, -1)
    y = jnp.matmul(x.reshape(x.shape[0], -1, size), matrix, precision=lax.Precision.HIGHEST)
    return y.reshape(*x.shape, -1)


def _chunks(reset: Bool[ArrayLike, "B T"], size: int) -> Bool[Array, "B K C"]:
    reset = jnp.asarray(reset)
    return jnp.pad(reset, ((0, 0), (0, -reset.shape[1] % size))).reshape(reset.shape[0], -1, size)


def _until(cuts):
    """Whether there is one at this step or before, along the last axis."""
    return lax.cummax(cuts.astype(jnp.int32), axis=cuts.ndim - 1).astype(bool)


def _after(cuts):
    """Whether there is one at a later step."""
    later = jnp.pad(cuts[..., 1:], [(0, 0)] * (cuts.ndim - 1) + [(0, 1)])
    return lax.cummax(later.astype(jnp.int32), axis=cuts.ndim - 1, reverse=True).astype(bool)
