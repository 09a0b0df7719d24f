"""Provide the regimes of inputs: gates, keys and strengths with which a chunked form could lose precision or overflow.

All other inputs are of size 1: queries, values, states and cotangents are standard normal.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from recurrax.ops.samplers import Samplers

SAME_KEY = 64
"""Number of consecutive tokens that share a key where keys are equal: as many as a chunk has, or more."""


def _mild(rng, shape):
    return -0.1 * np.exp(rng.standard_normal(shape))


def _strong(rng, shape):
    return np.full(shape, -5.0)


def _zero(rng, shape):
    return np.zeros(shape)


def _one(rng, shape):
    gates = _mild(rng, shape)
    axis = min(1, len(shape) - 1)  # of decays that do not depend on time, those of one channel or state
    np.moveaxis(gates, axis, 0)[(shape[axis] // 2 + 5) % shape[axis]] = -1e4
    return gates


def _mixture(rng, shape):
    which, mild = rng.uniform(size=shape), _mild(rng, shape)
    # A decay that does not depend on time, of two axes at most, is not 0: such a mode would never be damped.
    open_gate = 0.0 if len(shape) > 2 else mild
    return np.select([which < 0.02, which < 0.12, which < 0.22], [-300.0, -20.0, open_gate], mild)


@dataclasses.dataclass(frozen=True)
class Regime:
    """One way to draw the inputs."""

    name: str
    """Its name in flags and on the page."""
    words: str
    """Its description on the page."""
    gates: Callable[..., np.ndarray] = _mild
    """(generator, shape) -> log-decays."""
    keys: str = "any"
    """"any", "equal" over `SAME_KEY` tokens, or "zero"."""
    beta: float | None = None
    """The strength of all writes; None: sigmoids of standard normal numbers."""
    is_long: bool = False
    """Whether it is measured at the longer of the two lengths."""
    varies: frozenset[str] = frozenset()
    """The samplers that make the regime: only ops that call one of them are measured in it."""
    without: frozenset[str] = frozenset()
    """Ops that are not measured in this regime."""

    @property
    def samplers(self) -> Samplers:
        """Return the samplers with which an op draws its inputs."""
        return Samplers(log_decay=self.gates, key=self.draw_keys, strength=self.draw_strengths)

    def draw_keys(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Return keys (B, T, ..., H, K) of length 1, or zeros."""
        keys = rng.standard_normal(shape)
        keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
        if self.keys == "zero":
            return np.zeros(shape)
        if self.keys == "equal":
            tokens = np.arange(shape[1])
            keys = np.take(keys, tokens - tokens % SAME_KEY, axis=1)
            if keys.ndim == 5:  # several keys per token
                keys = np.broadcast_to(keys[:, :, :1], shape)
        return keys

    def draw_strengths(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Return the strengths of writes."""
        strength = 1 / (1 + np.exp(-rng.standard_normal(shape)))
        return strength if self.beta is None else np.full(shape, self.beta)


_BOUNDED = frozenset({"dplr_rule"})  # in RWKV-7, whose rule it is, strengths are below 1
_GATES, _KEYS, _STRENGTHS = (frozenset({name}) for name in Samplers._fields)
MILD = Regime("mild", "gates -0.1 e^n with n standard normal")
STRONG = Regime("strong", "all gates -5", _strong, varies=_GATES)
ZERO = Regime("zero-gates", "all gates 0", _zero, varies=_GATES)
ONE = Regime("one-gate", "one token's gates are -1e4, or those of one state; the others mild", _one, varies=_GATES)
MIXTURE = Regime(
    "mixture",
    "2 % of the gates -300, 10 % -20, 10 % 0 (of those that depend on time), the others mild",
    _mixture,
    varies=_GATES,
)
EQUAL_KEYS = Regime(
    "equal-keys", f"{SAME_KEY} tokens in a row share their key; beta 1", keys="equal", beta=1.0, varies=_KEYS
)
EQUAL_KEYS_2 = Regime(
    "equal-keys-beta-2",
    "as equal-keys, with beta 2",
    keys="equal",
    beta=2.0,
    varies=_KEYS | _STRENGTHS,
    without=_BOUNDED,
)
ZERO_KEYS = Regime("zero-keys", "all keys 0", keys="zero", varies=_KEYS)
BETA_0, BETA_1 = (Regime(f"beta-{b}", f"all beta {b}", beta=float(b), varies=_STRENGTHS) for b in (0, 1))
BETA_2 = Regime("beta-2", "all beta 2", beta=2.0, varies=_STRENGTHS, without=_BOUNDED)
LONG = Regime("long", "mild, at the longer length", is_long=True)

REGIMES = (MILD, STRONG, MIXTURE, ZERO, ONE, EQUAL_KEYS, EQUAL_KEYS_2, ZERO_KEYS, BETA_0, BETA_1, BETA_2, LONG)
