"""Provide the tables of `selective_scan` and `state_space`, ops with a vector state per channel."""

import functools
import math

import jax.numpy as jnp
from jax import lax

from eval.bench import shapes
from eval.bench.contestants.base import Benchmark, Contestant, of_op, state_dtype, too_many
from eval.bench.contestants.diagonal import lax_associative_scan, lax_scan
from eval.bench.programs import exactness

MOST_ELEMENTS = 2**27


def _selective(x, dt, a, b, c, scan):
    """Compute all decays and inputs, scan, and read: (B, T, E, N) numbers each."""
    dtype = state_dtype(x)
    decay = jnp.exp(dt[..., None] * a[None, None]).astype(dtype)
    drive = ((dt * x)[..., None] * b[:, :, None]).astype(dtype)
    return jnp.einsum("bten,btn->bte", scan(decay, drive), c, precision=exactness(x.dtype)).astype(x.dtype)


def _diagonal_system(x, a, b, c, scan):
    """Run the diagonal system as a scan over all N states of each channel: (B, T, D, N) numbers."""
    drive = x[..., None] * b[None, None]
    h = scan(jnp.broadcast_to(jnp.exp(a)[None, None], drive.shape), drive)
    y = jnp.einsum("btdn,dmn->btdm", h, c.astype(h.dtype), precision=lax.Precision.HIGHEST)
    return y.real.astype(x.dtype)


def _convolution(x, a, b, c):
    """Convolve with the whole kernel c A^t b by FFT, as S4D does in training."""
    length = x.shape[1]
    powers = jnp.exp(a[..., None] * jnp.arange(length)[None, None].astype(a.real.dtype))
    kernel = jnp.einsum("dmn,dnt->dmt", c * b[:, None], powers, precision=lax.Precision.HIGHEST).real
    waves = jnp.fft.rfft(x.astype(kernel.dtype), 2 * length, axis=1)[..., None]
    filters = jnp.moveaxis(jnp.fft.rfft(kernel, 2 * length), -1, 0)[None]
    return jnp.fft.irfft(waves * filters, 2 * length, axis=1)[:, :length].astype(x.dtype)


def _dense_scan(x, a, b, c):
    """Run the dense system step by step."""
    einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    transition = jnp.eye(a.shape[-1])[None] + a.astype(jnp.float32)

    def step(h, x):
        h = einsum("dmn,bdn->bdm", transition, h) + b[None] * x[..., None]
        return h, einsum("dmn,bdn->bdm", c, h)

    start = jnp.zeros((x.shape[0], *b.shape), jnp.float32)
    return jnp.moveaxis(lax.scan(step, start, jnp.moveaxis(x, 1, 0))[1], 0, 1).astype(x.dtype)


def _refuse(sizes):
    return too_many(math.prod(sizes), "its states", MOST_ELEMENTS)


def _selective_operations(sizes, direction):
    """Count 2 N for the state and 2 N for the output of each channel and token; three times that with backward."""
    return 4 * math.prod(sizes) * (1 if direction == "forward" else 3)


def _system_operations(dense, sizes, direction):
    """Count A h + b x and c h for each channel and token; three times that with backward."""
    batch, length, dim, states, outputs = sizes
    per_token = 2 * states * ((states if dense else 1) + outputs)
    return batch * length * dim * per_token * (1 if direction == "forward" else 3)


SELECTIVE_SCAN = of_op(
    "selective_scan",
    dims=("B", "T", "E", "N"),
    shapes=shapes.SELECTIVE_SCAN,
    oracle_sizes=(2, 97, 8, 4),
    operations=_selective_operations,
    peers=(
        Contestant("lax.scan", functools.partial(_selective, scan=lax_scan), refuses=_refuse),
        Contestant("lax.associative_scan", functools.partial(_selective, scan=lax_associative_scan), refuses=_refuse),
    ),
)


def _state_space(variant: str, peers: tuple[Contestant, ...]) -> Benchmark:
    return of_op(
        "state_space",
        variant,
        dims=("B", "T", "D", "N", "M"),
        shapes=shapes.STATE_SPACE,
        oracle_sizes=(2, 97, 4, 8, 1),
        operations=functools.partial(_system_operations, variant == "dense"),
        peers=peers,
    )


STATE_SPACE = (
    _state_space(
        "complex",
        (
            Contestant("lax.scan", functools.partial(_diagonal_system, scan=lax_scan), refuses=_refuse),
            Contestant(
                "lax.associative_scan", functools.partial(_diagonal_system, scan=lax_associative_scan), refuses=_refuse
            ),
            Contestant("FFT of the kernel", _convolution),
        ),
    ),
    _state_space("dense", (Contestant("lax.scan", _dense_scan),)),
)
