"""Coordinates the processes of a run: how they connect, which one writes, and how they agree.

Every process runs the whole loop on its own devices and reads its own rows. Process 0 alone writes the files of a run,
except that each process writes its part of a checkpoint. A decision that depends on one process is shared with all.
"""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_SECONDS = 30
"""Seconds without a heartbeat after which a process counts as dead; the others are then ended."""


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connect to the other processes of this run, without arguments by the cluster's environment (TPU, Slurm, MPI).

    Raises:
      ValueError: only some of the arguments are given, or one is out of range.
      RuntimeError: the other processes were not found.
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"{', '.join(given)} go together, or none of them is given; missing: {', '.join(missing)}")
    if not missing and not 0 <= process_id < num_processes:
        raise ValueError(f"--process-id must be in [0, --num-processes), got {process_id} of {num_processes}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120
    )


def is_first() -> bool:
    """Return whether this is process 0, which writes."""
    return jax.process_index() == 0


def on_any(condition: bool) -> bool:
    """Return whether `condition` holds on any process. Also a barrier: no process returns before all have called."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.asarray(condition))))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise on all processes if the body raises on one, so that no process waits for one that has failed."""
    error = None
    try:
        yield
    except (ValueError, OSError) as problem:
        error = problem
    if on_any(error is not None):
        raise error or RuntimeError("another process could not start; see its message")


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a SIGTERM or a Ctrl-C has come. A second Ctrl-C stops at once.

    If one of several processes gets a SIGTERM, the function returns True on all at the same call: they must call it
    equally often.
    """
    if jax.process_count() > 1:
        yield _reached_by_all()
        return
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread only
        yield stopped.is_set
        return

    def handle(number, _):
        stopped.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _reached_by_all() -> Callable[[], bool]:
    """Return a function that is True from the same call on in all processes, after a SIGTERM to any."""
    calls, stopped = itertools.count(1), False

    def should_stop() -> bool:
        nonlocal stopped
        stopped = stopped or multihost_utils.reached_preemption_sync_point(next(calls))
        return stopped

    return should_stop


def gathered(tree):
    """Return arrays that are split over the devices of all processes as whole NumPy arrays; every process calls it."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
