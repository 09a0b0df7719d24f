"""What goes into the ops: gates, keys and strengths where chunked forms lose digits or overflow, if they do.

All else is of size 1: queries, values, states and cotangents are standard normal.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

SAME_KEY = 64
"""Tokens in a row that share a key where keys are equal: as many as a chunk has, or more."""


def _mild(rng, shape):
    return -0.1 * np.exp(rng.standard_normal(shape))


def _strong(rng, shape):
    return np.full(shape, -5.0)


def _zero(rng, shape):
    return np.zeros(shape)


def _one(rng, shape):
    gates = _mild(rng, shape)
    gates[:, (shape[1] // 2 + 5) % shape[1]] = -1e4
    return gates


def _mixture(rng, shape):
    which = rng.uniform(size=shape)
    return np.select([which < 0.02, which < 0.12, which < 0.22], [-300.0, -20.0, 0.0], _mild(rng, shape))


@dataclasses.dataclass(frozen=True)
class Regime:
    """One way to draw the inputs.

    Attributes:
      name: as the flags and the page call it.
      words: what it is, for the page.
      gates: (generator, shape) -> log-decays.
      needs_gates: it says something about ops with a decay alone.
      keys: "any", "equal" over `SAME_KEY` tokens, or "zero".
      beta: the strength of all writes; None: sigmoids of standard normal numbers.
      is_long: of the longer of the two lengths.
    """

    name: str
    words: str
    gates: Callable[..., np.ndarray] = _mild
    needs_gates: bool = False
    keys: str = "any"
    beta: float | None = None
    is_long: bool = False

    def draw_gates(self, rng, shape):
        return self.gates(rng, shape)

    def draw_keys(self, rng, shape, unit):
        """Keys (B, T, ..., H, K), of length 1 if `unit`."""
        keys = rng.standard_normal(shape)
        if unit:
            keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
        if self.keys == "zero":
            return np.zeros(shape)
        if self.keys == "equal":
            tokens = np.arange(shape[1])
            keys = np.take(keys, tokens - tokens % SAME_KEY, axis=1)
            if keys.ndim == 5:  # several keys per token
                keys = np.broadcast_to(keys[:, :, :1], shape)
        return keys

    def draw_beta(self, rng, shape):
        strength = 1 / (1 + np.exp(-rng.standard_normal(shape)))
        return strength if self.beta is None else np.full(shape, self.beta)


MILD = Regime("mild", "gates -0.1 e^n with n standard normal")
STRONG = Regime("strong", "all gates -5", _strong, needs_gates=True)
ZERO = Regime("zero-gates", "all gates 0", _zero, needs_gates=True)
ONE = Regime("one-gate", "one token's gates are -1e4, the others mild", _one, needs_gates=True)
MIXTURE = Regime("mixture", "2 % of the gates -300, 10 % -20, 10 % 0, the others mild", _mixture, needs_gates=True)
EQUAL_KEYS = Regime("equal-keys", f"{SAME_KEY} tokens in a row share their key; beta 1", keys="equal", beta=1.0)
EQUAL_KEYS_2 = Regime("equal-keys-beta-2", "as equal-keys, with beta 2", keys="equal", beta=2.0)
ZERO_KEYS = Regime("zero-keys", "all keys 0", keys="zero")
BETA_0, BETA_1, BETA_2 = (Regime(f"beta-{b}", f"all beta {b}", beta=float(b)) for b in (0, 1, 2))
LONG = Regime("long", "mild, at the longer length", is_long=True)

REGIMES = (MILD, STRONG, MIXTURE, ZERO, ONE, EQUAL_KEYS, EQUAL_KEYS_2, ZERO_KEYS, BETA_0, BETA_1, BETA_2, LONG)
