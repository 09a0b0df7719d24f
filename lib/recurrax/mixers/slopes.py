"""Provide the decays of TransNormerLLM and Lightning attention, which heads and depth fix and nothing trains.

    paper         s_h = 2^(-8 h / H) (1 - l / L)                            for head h = 1 .. H of layer l of L
    minimax       s_h = 2^(-8 h / H) (1 - l / (L - 1 + 1e-5) + 1e-5)        MiniMax-01's checkpoints
    transnormer   s_h = ALiBi's slope (1 - l / (L - 1) + 1e-5)              TransNormerLLM's checkpoints

ALiBi's slopes (arXiv 2108.12409) are 2^(-8 h / H) where H is a power of two; for other H the slopes of the power of two
below are followed by every other slope of twice that power. By the published formulas the last layer hardly decays.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.layers import Depth

FORMULAS = ("paper", "minimax", "transnormer")


def slopes(num_heads: int, depth: Depth, formula: str = "paper") -> Float[Array, " H"]:
    """Return s_h, by which head h decays at each step, as a float32 constant.

    Raises:
      ValueError: an unknown formula.
    """
    checks.choice("slopes", formula, FORMULAS)
    heads = _alibi(num_heads) if formula == "transnormer" else 2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads)
    if formula == "paper":
        factor = 1 - depth.fraction
    else:
        # L - 1 - l is exact in float32; 1 - l / (L - 1) would lose precision in the last layer, where 1e-5 is left.
        small, last = 1e-5 if formula == "minimax" else 0.0, max(depth.count - 1, 1)
        factor = (last - depth.index) / (last + small) + (small / (last + small) + 1e-5)
    return jnp.asarray(heads, jnp.float32) * factor


def _alibi(num_heads):
    """Return ALiBi's slopes."""
    power = 2 ** int(np.log2(num_heads))
    return np.concatenate(
        [2.0 ** (-8 * np.arange(1, power + 1) / power), 2.0 ** (-4 * np.arange(1, 2 * (num_heads - power), 2) / power)]
    )
