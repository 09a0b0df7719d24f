"""Provide what the declarations of ops with matrix states (B, H, K, V) share: letters, the call, random inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.op import Choice
from recurrax.ops.samplers import Samplers
from recurrax.types import Array, ArrayLike

DECAY = "? B T H | B T H K"
RESULTS = ("B T Hq V", "B H K V")
SIZES = {"B": 2, "T": 24, "H": 2, "K": 8, "V": 6}
VARIANTS = ("none", "scalar", "channel")
"""Kinds of log-decays: None, one per head, one per key channel."""


def compute(choice: Choice, given: dict[str, Any]) -> tuple[Array, Array]:
    """Run the implementation on canonical arguments.

    It receives q and the other inputs unchanged, log-decays (B, T, H, 1 | K) or None, a state in the dtype in which the
    op computes (float32, or float64 for float64 inputs), resets (B, T) or None, and `scale` and `chunk_size`.
    """
    arrays = dict(given)
    scale, chunk_size = arrays.pop("scale"), arrays.pop("chunk_size")
    q, k, v, log_decay, state = (arrays[name] for name in ("q", "k", "v", "log_decay", "state"))
    if log_decay is not None and log_decay.ndim == 3:
        arrays["log_decay"] = log_decay[..., None]
    dtype, shape = wide_dtype(q.dtype), (k.shape[0], k.shape[-2], k.shape[-1], v.shape[-1])
    arrays["state"] = jnp.zeros(shape, dtype) if state is None else state.astype(dtype)
    return choice(arrays, scale=k.shape[-1] ** -0.5 if scale is None else scale, chunk_size=chunk_size)


def draw(
    rng: np.random.Generator,
    sizes: Mapping[str, int],
    variant: str,
    samplers: Samplers,
    more: Callable[[ArrayLike], dict[str, ArrayLike]] = lambda keys: {},
) -> dict[str, ArrayLike]:
    """Return q, k, v, a log-decay of this variant, a state, and `more(k)`; k, v have an axis R if `sizes` has."""
    b, t, h, k, v = (sizes[letter] for letter in "BTHKV")
    steps = (sizes["R"],) if "R" in sizes else ()
    decay = {"none": {}, "scalar": {"log_decay": (b, t, h)}, "channel": {"log_decay": (b, t, h, k)}}[variant]
    keys = samplers.key(rng, (b, t, *steps, h, k))
    return {
        "q": rng.standard_normal((b, t, sizes.get("Hq", h), k)),
        "k": keys,
        "v": rng.standard_normal((b, t, *steps, h, v)),
        **more(keys),
        **{name: samplers.log_decay(rng, shape) for name, shape in decay.items()},
        "state": rng.standard_normal((b, h, k, v)),
    }
