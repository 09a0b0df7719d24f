"""Detects loss spikes and reports them to the loop, whose `before_spike` restores an earlier state.

The recent losses with which a loss is compared are part of the state, so a run that is killed finds the same spikes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from train.config import SpikeConfig


def seen(loss: jax.Array, recent: jax.Array, sigmas: float) -> tuple[jax.Array, jax.Array]:
    """Return whether `loss` is `sigmas` standard deviations above the mean of `recent`; and the new `recent`.

    A spike does not enter `recent`. Until `recent` is full, no loss is a spike. A non-finite loss is not a spike and
    leaves `recent` unchanged; `on_nonfinite` handles it.
    """
    finite = jnp.isfinite(loss)
    spike = finite & (recent >= 0).all() & (loss > recent.mean() + sigmas * recent.std())
    return spike, jnp.where(finite & ~spike, jnp.append(recent[1:], loss), recent)


class SpikeWatch:
    """Checks the metrics of every step one step later, so that the device never waits."""

    def __init__(self, config: SpikeConfig):
        self._limit = config.limit
        self._pending: Mapping[str, jax.Array] | None = None
        self._times = 0

    def __call__(self, metrics: Mapping[str, jax.Array]) -> str | None:
        """Take the metrics of a step, which may not be computed yet; return a message if the last step was a spike.

        Raises:
          FloatingPointError: one spike more than config.limit.
        """
        before, self._pending = self._pending, metrics
        if before is None or not before.get("spike", False):
            return None
        self._pending = None
        self._times += 1
        message = f"the loss {float(before['loss']):.4f} is a spike"
        if self._times > self._limit:
            raise FloatingPointError(f"{message}; the run has gone back {self._limit} times already")
        return message
