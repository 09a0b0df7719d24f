"""Provides --profile FIRST:LAST, a trace of these steps for XProf or Perfetto."""

import os
import pathlib
from collections.abc import Callable

import jax


class Profiler:
    """Traces the steps from FIRST to LAST, both counted from 1, into DIR/profile."""

    def __init__(self, steps: str | None):
        """Raises ValueError unless `steps` is None or FIRST:LAST with 1 <= FIRST <= LAST."""
        self._first = self._last = None
        self._running, self._step = False, 0
        if steps is None:
            return
        first, separator, last = steps.partition(":")
        if not (separator and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise ValueError(f"--profile must be FIRST:LAST with 1 <= FIRST <= LAST, such as 10:15, got {steps!r}")
        self._first, self._last = int(first), int(last)

    def __call__(self, step: int, metrics, folder: str | os.PathLike, say: Callable[[str], None]) -> None:
        """Start or end the trace if it is time; to be called with the number of steps done, from 0 on."""
        self._step = step
        if step + 1 == self._first:
            jax.profiler.start_trace(str(pathlib.Path(folder) / "profile"))
            self._running = True
        if self._running and step == self._last:
            jax.block_until_ready(metrics)
            self.close(folder, say)

    def close(self, folder: str | os.PathLike, say: Callable[[str], None]) -> None:
        """End the trace, possibly before step LAST, and say where it is or that nothing was traced."""
        if self._running:
            jax.profiler.stop_trace()
            say(f"Traced steps {self._first} to {self._step} into {pathlib.Path(folder) / 'profile'}")
        elif self._first is not None:
            say(f"Nothing was traced: steps {self._first} to {self._last} are not among those of this call")
        self._running, self._first = False, None
