"""Loss spikes: when a loss is one, and the way back."""

import collections
import math
import statistics

import jax

from train.config import SpikeConfig


class SpikeWatch:
    """Looks at every loss, one step late, so that the device never waits."""

    def __init__(self, config: SpikeConfig):
        self._config = config
        self._losses: collections.deque[float] = collections.deque(maxlen=config.window)
        self._pending: jax.Array | None = None
        self._times = 0

    def __call__(self, loss: jax.Array) -> str | None:
        """Takes the loss of a step, still being computed. What is wrong with that of the step before, if it is a spike.

        Raises:
          FloatingPointError: one spike more than config.limit.
        """
        if self._config.sigmas is None:
            return None
        before, self._pending = self._pending, loss
        if before is None or not math.isfinite(before):  # what is not finite has rules of its own
            return None
        before, full = float(before), len(self._losses) == self._config.window
        mean, deviation = (statistics.fmean(self._losses), statistics.pstdev(self._losses)) if full else (0, 0)
        if not full or before <= mean + self._config.sigmas * deviation:
            self._losses.append(before)
            return None
        what = (
            f"the loss {before:.4f} is a spike above {mean:.4f} +- {deviation:.4f} of the {self._config.window} before"
        )
        self._times += 1
        if self._times > self._config.limit:
            raise FloatingPointError(f"{what}; the run has gone back {self._config.limit} times already")
        self._losses.clear()
        self._pending = None
        return what
