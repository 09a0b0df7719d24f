"""Provide causal softmax attention that never holds all scores: JAX's splash attention kernel, for TPUs.

It takes whole sequences in bfloat16. The kernel has no scale: queries are scaled before it and rounded once more, which
changes nothing if the scale is a power of two, as for heads of 64 channels.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jaxtyping import Array, Float, Int

LANES = 128
"""Blocks of keys are multiples of this."""
WINDOWED, WHOLE = 512, 1024
"""The most tokens of a block, with a window and without one: the fastest by the TPU compiler's schedules."""
COMPUTED = 512
"""The most keys of a block that are multiplied at once."""
RESIDUALS = "flash attention"
"""Name of the output and of the logarithms of sums: to hold them for the backward pass costs less than the kernel."""


def takes(q: Float[Array, "B T Hq K"], k: Float[Array, "B T H K"]) -> bool:
    """Return whether the kernel takes these queries and keys."""
    return q.dtype == jnp.bfloat16 and q.shape[1] == k.shape[1] and q.shape[1] % LANES == 0


def attend(
    q: Float[Array, "B T Hq K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    document: Int[Array, "B T"],
    window: int | None,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "B T Hq V"]:
    """Return o_t = sum_s softmax_s(scale q_t . k_s) v_s over the last `window` tokens of t's document, t included."""
    kernel = _kernel(q.shape[1], q.shape[2], window, interpret)
    heads_first = [x.swapaxes(1, 2) for x in ((q * scale).astype(q.dtype), k, v)]
    segments = splash_attention_kernel.SegmentIds(document, document)
    return jax.vmap(kernel)(*heads_first, segments).swapaxes(1, 2)


def _kernel(length, heads, window, interpret):
    """Return the kernel of one row of a batch. Its tables of blocks are constants of the program, of size T / block."""
    shape = (length, length)
    if window is None or window >= length:
        mask = splash_attention_mask.CausalMask(shape)
    else:
        mask = splash_attention_mask.LocalMask(shape, window_size=(window - 1, 0), offset=0)
    fitting = functools.partial(_largest_divisor, length)
    block, computed = fitting(WHOLE if window is None else WINDOWED), fitting(COMPUTED)
    return splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=computed,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=computed,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )


def _largest_divisor(length, most):
    """Return the largest number of tokens up to `most` that divides the length and is a multiple of 128."""
    return max(n for n in range(LANES, most + 1, LANES) if length % n == 0)
