"""Provides --profile FIRST:LAST, a trace of these steps for XProf or Perfetto."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

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

    @contextlib.contextmanager
    def into(self, folder: str | os.PathLike, step: int, say: Callable[[str], None]) -> Iterator[None]:
        """Write into this folder within the context, which begins after `step` steps.

        At its end, say where the trace is, or that nothing was traced.
        """
        self._folder, self._say = pathlib.Path(folder) / "profile", say
        try:
            self.after(step, None)
            yield
        finally:
            self._close()

    def after(self, step: int, metrics) -> None:
        """Start or end the trace if it is time, after `step` steps, the last of which has these metrics."""
        self._step = step
        if step + 1 == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if self._running and step == self._last:
            jax.block_until_ready(metrics)
            self._close()

    def _close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._say(f"Traced steps {self._first} to {self._step} into {self._folder}")
        elif self._first is not None:
            self._say(f"Nothing was traced: steps {self._first} to {self._last} are not among those of this call")
        self._running, self._first = False, None
