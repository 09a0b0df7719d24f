"""Which implementation runs: the one that was asked for, or the measured best of this backend."""

from collections.abc import Mapping
from typing import TypeVar

import jax

from recurrax import checks

T = TypeVar("T")


def choose(implementation: str | None, implementations: Mapping[str, T], best: Mapping[str, str]) -> T:
    """Returns the implementation of that name; for None the one that `best` names for the default backend.

    `best` maps a backend ("cpu", "gpu", "tpu") to a name, and must hold "default" for the backends it does not list.

    Raises:
      ValueError: no implementation has that name; the message lists those there are.
    """
    if implementation is None:
        implementation = best.get(jax.default_backend(), best["default"])
    if implementation not in implementations:
        hint = checks.hint(implementation, implementations)
        raise ValueError(
            f"unknown implementation {implementation!r}{hint}; choose one of {', '.join(map(repr, implementations))}, "
            "or None for the best one on this backend"
        )
    return implementations[implementation]
