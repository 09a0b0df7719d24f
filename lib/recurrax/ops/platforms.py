"""Choose code by the platform that a program is lowered for, not by the devices of the process that traces it.

A program lowered for a TPU on a laptop is the TPU's program: `per_platform` traces a branch for each platform, and
lowering keeps one of them. JAX must not differentiate through such a branch, because it would save the residuals of all
branches. So an op with its own backward pass branches inside its forward and its backward function.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from recurrax import checks
from recurrax.types import PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The names that `jax.lax.platform_dependent` uses."""

_CANDIDATES = jax.make_user_context(PLATFORMS)

T = TypeVar("T")


def candidates() -> tuple[str, ...]:
    """Return the platforms that the code being traced may run on: all, or those of the enclosing branch."""
    return _CANDIDATES.value


def known(platform: str) -> bool:
    """Return whether the code being traced runs on this platform and on no other."""
    return candidates() == (platform,)


def of(device: str) -> tuple[str, ...]:
    """Return the platforms that a kind of device may be, such as `jax.Device.platform`: a "gpu" is one of two.

    Raises:
      ValueError: an unknown kind.
    """
    checks.choice("platform", device, (*PLATFORMS, "gpu"))
    return ("cuda", "rocm") if device == "gpu" else (device,)


def on(device: str):
    """Return a context for tracing a program that runs on this kind of device alone, such as `jax.Device.platform`.

    Nothing has a branch in it, and what a backward pass stores has the shapes of this platform.

    Raises:
      ValueError: an unknown kind.
    """
    return _CANDIDATES(of(device))


def table(function: Callable[[str], T]) -> dict[str, T]:
    """Return function(platform) for each candidate platform."""
    return {platform: function(platform) for platform in candidates()}


def per_platform(function: Callable[..., PyTree], options: Mapping[str, Any], *arguments: PyTree) -> PyTree:
    """Return function(option, *arguments) with the option of the platform that runs the program.

    Args:
      function: a function of an option and of arrays. All options must give results of the same shapes and dtypes.
      options: a hashable value for each candidate platform. Platforms with equal options share one branch; there is no
        branch if all are equal.
      arguments: pytrees of arrays.
    """
    options = {platform: options[platform] for platform in candidates() if platform in options}
    groups = {}
    for platform, option in options.items():
        groups.setdefault(option, []).append(platform)
    if len(groups) == 1 and len(options) == len(candidates()):
        return function(next(iter(groups)), *arguments)
    branches = {option: _branch(function, option, tuple(names)) for option, names in groups.items()}
    by_platform = {platform: branches[option] for platform, option in options.items()}
    return jax.lax.platform_dependent(*arguments, **by_platform)


def _branch(function, option, platforms):
    def branch(*arguments):
        with _CANDIDATES(platforms):
            return function(option, *arguments)

    return branch
