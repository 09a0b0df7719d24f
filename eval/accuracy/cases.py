"""Define the measured ops: how their inputs are drawn, their implementations and their oracles."""

import dataclasses
from collections.abc import Callable

import numpy as np

from eval import oracles
from eval.accuracy import regimes
from eval.accuracy.regimes import Regime
from recurrax import ops

BATCH, HEADS, KEY, VALUE = 1, 2, 32, 32
CHANNELS = 64
"""Number of channels of `diagonal_scan`."""
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """One op.

    Attributes:
      op: its name.
      run: the op, its inputs by name.
      oracle: (inputs, cotangents=) -> outputs, final state and gradients by name, in NumPy float64.
      implementations: those of the op.
      decays: kinds of decay.
      outputs: names of the outputs and of the final state.
      regimes: those that say something about it.
      draw: (generator, regime, decay, length) -> the inputs by name in float64 or complex128.
    """

    op: str
    run: Callable
    oracle: Callable
    implementations: tuple[str, ...]
    decays: tuple[str, ...]
    outputs: tuple[str, str]
    regimes: tuple[Regime, ...]
    draw: Callable[..., dict[str, np.ndarray]]

    def has(self, decay: str, dtype: str, regime: Regime) -> bool:
        """Return whether this is measured: no complex numbers in half precision, no regime of gates without a decay."""
        if decay == "complex" and dtype == "bfloat16":
            return False
        return regime in self.regimes and not (decay == "none" and regime.needs_gates)


def _draw(rng, regime, decay, length, unit=True, steps=(), more=None):
    """Draw the inputs of an op with matrix states.

    `more` draws the op's own inputs from the keys; `steps` is the axis of several keys per token.
    """
    times = (BATCH, length)
    gates = {"none": None, "scalar": (*times, HEADS), "channel": (*times, HEADS, KEY)}[decay]
    key = regime.draw_keys(rng, (*times, *steps, HEADS, KEY), unit)
    return {
        "q": rng.standard_normal((*times, HEADS, KEY)),
        "k": key,
        "v": rng.standard_normal((*times, *steps, HEADS, VALUE)),
        **({} if more is None else more(key)),
        "log_decay": None if gates is None else regime.draw_gates(rng, gates),
        "state": rng.standard_normal((BATCH, HEADS, KEY, VALUE)),
    }


def _draw_linear(rng, regime, decay, length):
    return _draw(rng, regime, decay, length, unit=False)


def _draw_delta(rng, regime, decay, length, steps=()):
    return _draw(
        rng, regime, decay, length, steps=steps, more=lambda key: {"beta": regime.draw_beta(rng, key.shape[:-1])}
    )


def _draw_product(rng, regime, decay, length):
    return _draw_delta(rng, regime, decay, length, steps=(2,))


def _draw_dplr(rng, regime, decay, length):
    """Draw inputs as in RWKV-7: a is minus the key, and b is the key times beta."""

    def more(key):
        return {"a": -key, "b": key * regime.draw_beta(rng, key.shape[:-1])[..., None]}

    return _draw(rng, regime, decay, length, more=more)


def _draw_diagonal(rng, regime, decay, length):
    """Draw decay factors e^g, with uniform phases if they are complex."""
    shape = (BATCH, length, CHANNELS)

    def normal(*shape):
        real = rng.standard_normal(shape)
        return real + 1j * rng.standard_normal(shape) if decay == "complex" else real

    turn = np.exp(2j * np.pi * rng.uniform(size=shape)) if decay == "complex" else 1.0
    a = np.exp(regime.draw_gates(rng, shape)) * turn
    return {"a": a, "x": normal(*shape), "h0": normal(BATCH, CHANNELS)}


_GATES = (regimes.MILD, regimes.STRONG, regimes.MIXTURE, regimes.ZERO, regimes.ONE)
_KEYS = (regimes.EQUAL_KEYS, regimes.ZERO_KEYS)
_UP_TO_1 = (regimes.BETA_0, regimes.BETA_1)
_UP_TO_2 = (*_UP_TO_1, regimes.BETA_2, regimes.EQUAL_KEYS_2)


def _matrix_case(op, draw, more=()):
    """Return the case of the op with this name, which is also the name of its oracle."""
    names = tuple(ops.OPS[op].implementations)
    every = (*_GATES, *_KEYS, *more, regimes.LONG)
    in_order = tuple(regime for regime in regimes.REGIMES if regime in every)
    decays = ("none", "scalar", "channel")
    return Case(op, getattr(ops, op), getattr(oracles, op), names, decays, ("o", "S"), in_order, draw)


CASES = (
    _matrix_case("linear_attention", _draw_linear),
    _matrix_case("delta_rule", _draw_delta, _UP_TO_2),
    _matrix_case("delta_product", _draw_product, _UP_TO_2),
    _matrix_case("dplr_rule", _draw_dplr, _UP_TO_1),
    Case(
        op="diagonal_scan",
        run=ops.diagonal_scan,
        oracle=oracles.diagonal_scan,
        implementations=tuple(ops.OPS["diagonal_scan"].implementations),
        decays=("real", "complex"),
        outputs=("h", "h_T"),
        regimes=(*_GATES, regimes.LONG),
        draw=_draw_diagonal,
    ),
)
