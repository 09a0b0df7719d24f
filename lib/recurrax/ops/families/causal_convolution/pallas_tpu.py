"""Run the short causal convolution and its gradient as Pallas TPU kernels, which read and write every array once.

With m_{t,i} = 1 if tokens t - i, ..., t are of one document and 0 otherwise,

    y_t = bias + sum_i k_i m_{t,i} x_{t-i}
    dx_t = sum_i k_i m_{t+i,i} dy_{t+i}          dk_i = sum_t x_t m_{t+i,i} dy_{t+i}

A grid of (row of the batch, group of channels, block of time) covers the arrays. Eight rows of the block before, or
after in the gradient, stay on the chip: filters have at most 9 taps. All arithmetic is float32. What the gradient sends
to the state before the first token is a convolution of a few tokens, outside of the kernel.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops import platforms
from recurrax.ops.differentiation import custom_vjp
from recurrax.ops.families.causal_convolution.taps import after, ages, sums
from recurrax.ops.pallas_tpu.kernels import LANES, ROWS, call, filled, refusal

TOKENS = 256
"""Tokens of a block."""
GROUPS = 4
"""The most groups of 128 channels of a block."""


def supports(arguments):
    """Return why the kernel does not take these arguments, if it does not."""
    if (width := arguments.sizes["W"]) > ROWS + 1:
        return f"takes at most {ROWS + 1} taps, got {width}"
    return refusal(arguments, "x")


def on_a_known_tpu(arguments, platform):
    """Prefer the kernel for whole registers and blocks, if the program is known to run on a TPU."""
    return platforms.known(platform) and arguments.sizes["T"] >= TOKENS // 2 and arguments.sizes["D"] % LANES == 0


def convolve(x, kernel, bias, state, reset, *, interpret=False):
    """Return the same as `taps.convolve`."""
    (_, length, channels), last = x.shape, after(x, state, reset)
    age = None if reset is None else filled(ages(reset, state.shape[1]), 1, TOKENS)
    x, state, kernel = (filled(each, -1, LANES) for each in (x, state, kernel))
    bias = None if bias is None else filled(bias, -1, LANES)
    y = _convolve(interpret, filled(x, 1, TOKENS), kernel, bias, state, age)
    return y[:, :length, :channels], last


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _convolve(interpret, x, kernel, bias, state, age):
    grid = _Grid(*x.shape, reverse=False)
    before = jnp.pad(state, ((0, 0), (ROWS - state.shape[1], 0), (0, 0)))
    inputs = [grid.tokens(x), grid.ages(age), grid.taps(kernel), grid.taps(bias), grid.before(before)]
    return grid.call(_forward, kernel.shape[0], inputs, [grid.tokens(x)], interpret)[0]


def _convolve_forward(interpret, x, kernel, bias, state, age):
    return _convolve(interpret, x, kernel, bias, state, age), (x, kernel, bias, state, age)


def _convolve_backward(interpret, residuals, dy):
    x, kernel, bias, state, age = residuals
    width, few = kernel.shape[0], state.shape[1]
    grid = _Grid(*x.shape, reverse=True)
    of_taps = jax.ShapeDtypeStruct((x.shape[0], width, x.shape[2]), jnp.float32)
    inputs = [grid.tokens(x), grid.tokens(dy), grid.ages(age), grid.taps(kernel)]
    outputs = [grid.tokens(x), grid.before(of_taps), (None, None) if bias is None else grid.before(of_taps)]
    dx, d_kernel, d_bias = grid.call(_backward, width, inputs, outputs, interpret)

    def from_state(state, kernel):
        """Return what the tokens before the first one add to the outputs."""
        inputs = jnp.concatenate([state, jnp.zeros_like(state)], axis=1)
        return sums(inputs, kernel, None if age is None else age[:, :few])

    d_state, d_first = jnp.zeros_like(state), 0
    if few:
        d_state, d_first = jax.vjp(from_state, state, kernel)[1](dy[:, :few].astype(jnp.float32))
    d_bias = None if bias is None else d_bias.sum(0)[0]
    return dx, d_kernel.sum(0) + d_first, d_bias, d_state, None


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _forward(width, x, age, kernel, bias, before, y, rows):
    """Write y; `rows` holds the 8 rows before the block, then those of the block, in float32."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        rows[:ROWS] = before[...]

    size = x.shape[0]
    rows[ROWS:] = x[...].astype(jnp.float32)
    for lanes in _groups(x):
        found = 0.0 if bias is None else jnp.broadcast_to(bias[:, lanes], (size, LANES))
        for i in range(width):
            tap = rows[ROWS - i : ROWS - i + size, lanes] * kernel[width - 1 - i : width - i, lanes]
            found += tap if age is None or i == 0 else jnp.where(age[...] >= i, tap, 0.0)
        y[:, lanes] = found.astype(y.dtype)
    rows[:ROWS] = rows[size:]


def _backward(width, x, dy, age, kernel, dx, d_kernel, d_bias, rows, ages):
    """Write dx, and add up the gradients of taps; `rows` holds those of dy, then the 8 rows after the block."""
    size = x.shape[0]

    @pl.when(pl.program_id(2) == 0)
    def _():
        rows[size:] = jnp.zeros((ROWS, x.shape[1]), jnp.float32)
        d_kernel[...] = jnp.zeros(d_kernel.shape, jnp.float32)
        if age is not None:
            ages[size:] = jnp.zeros((ROWS, LANES), jnp.int32)
        if d_bias is not None:
            d_bias[...] = jnp.zeros(d_bias.shape, jnp.float32)

    rows[:size] = dy[...].astype(jnp.float32)
    if age is not None:
        ages[:size] = age[...]
    for lanes in _groups(x):
        read, found = x[:, lanes].astype(jnp.float32), 0.0
        for i in range(width):
            later = rows[i : i + size, lanes]
            if age is not None and i > 0:
                later = jnp.where(ages[i : i + size] >= i, later, 0.0)
            tap = pl.ds(width - 1 - i, 1), lanes
            found += later * kernel[tap]
            d_kernel[tap] += jnp.sum(read * later, axis=0, keepdims=True)
        dx[:, lanes] = found.astype(dx.dtype)
        if d_bias is not None:
            d_bias[:1, lanes] += jnp.sum(rows[:size, lanes], axis=0, keepdims=True)
    rows[size:] = rows[:ROWS]
    if age is not None:
        ages[size:] = ages[:ROWS]


class _Grid(NamedTuple):
    """The blocks of arrays, as pairs (array or its shape, BlockSpec)."""

    batch: int
    length: int
    channels: int
    reverse: bool
    """Whether the kernel goes through the blocks from the last one."""

    @property
    def width(self) -> int:
        groups = self.channels // LANES
        return LANES * next(n for n in range(GROUPS, 0, -1) if groups % n == 0)

    def call(self, kernel, taps, inputs, outputs, interpret):
        """Return the results of kernel(taps, *references) by `kernels.call`."""
        scratch = [pltpu.VMEM((TOKENS + ROWS, self.width), jnp.float32)]
        if self.reverse:
            scratch.append(pltpu.VMEM((TOKENS + ROWS, LANES), jnp.int32))
        return call(
            functools.partial(kernel, taps),
            f"causal_conv1d{kernel.__name__}",
            (self.batch, self.channels // self.width, self.length // TOKENS),
            inputs,
            outputs,
            scratch,
            flops=2 * taps * self.batch * self.length * self.channels * (1 + self.reverse),
            interpret=interpret,
        )

    def tokens(self, x):
        """Return an array (B, T, D)."""
        return x, pl.BlockSpec((None, TOKENS, self.width), lambda b, n, t: (b, self._block(t), n))

    def ages(self, age):
        """Return numbers (B, T) or None, in all 128 lanes."""
        if age is None:
            return None, None
        age = jnp.broadcast_to(age.astype(jnp.int32)[..., None], (*age.shape, LANES))
        return age, pl.BlockSpec((None, TOKENS, LANES), lambda b, n, t: (b, self._block(t), 0))

    def taps(self, kernel):
        """Return a kernel (W, D), a bias (D,) or None."""
        if kernel is None:
            return None, None
        kernel = kernel.reshape(-1, self.channels)
        return kernel, pl.BlockSpec((kernel.shape[0], self.width), lambda b, n, t: (0, n))

    def before(self, rows):
        """Return a few rows for each sequence, (B, N, D)."""
        return rows, pl.BlockSpec((None, rows.shape[1], self.width), lambda b, n, t: (b, 0, n))

    def _block(self, t):
        return self.length // TOKENS - 1 - t if self.reverse else t


def _groups(x):
    return [pl.ds(j * LANES, LANES) for j in range(x.shape[1] // LANES)]
