"""Loss spikes: when a loss is one, and who tells the loop. `loop.before_spike` is the way back.

What a loss is compared with is part of the state. So a run that is killed finds the same spikes again.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from train.config import SpikeConfig


def seen(loss: jax.Array, recent: jax.Array, sigmas: float) -> tuple[jax.Array, jax.Array]:
    """Whether `loss` is sigmas standard deviations above the mean of `recent`, and `recent` with it, if it is no spike.

    Until `recent` is full nothing is a spike. What is not finite has rules of its own, and leaves `recent` alone.
    """
    finite = jnp.isfinite(loss)
    spike = finite & (recent >= 0).all() & (loss > recent.mean() + sigmas * recent.std())
    return spike, jnp.where(finite & ~spike, jnp.append(recent[1:], loss), recent)


class SpikeWatch:
    """Looks at every step's metrics, one step late, so that the device never waits."""

    def __init__(self, config: SpikeConfig):
        self._limit = config.limit
        self._pending: Mapping[str, jax.Array] | None = None
        self._times = 0

    def __call__(self, metrics: Mapping[str, jax.Array]) -> str | None:
        """Takes the metrics of a step, still being computed. What to say of the step before, if it was a spike.

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
