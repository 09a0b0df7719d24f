"""Detects loss spikes and reports them to the session, which restores an earlier state.

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
    """Counts the spikes of a call, of which there may be config.limit."""

    def __init__(self, config: SpikeConfig):
        self._limit = config.limit
        self._times = 0

    def __call__(self, metrics: Mapping[str, jax.Array]) -> str | None:
        """Return a message if the step of these metrics was a spike.

        Raises:
          FloatingPointError: one spike more than config.limit.
        """
        if not metrics.get("spike", False):
            return None
        self._times += 1
        message = f"the loss {float(metrics['loss']):.4f} is a spike"
        if self._times > self._limit:
            raise FloatingPointError(f"{message}; the run has gone back {self._limit} times already")
        return message
