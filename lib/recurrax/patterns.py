"""Selects parameters by role or by a pattern of paths, and divides trees of parameters accordingly."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from recurrax import checks
from recurrax.parameters import ROLES, Parameter


def matches(pattern: str, path: str, parameter: Parameter) -> bool:
    """Return whether the pattern is the parameter's role, or, with `*` and `?`, matches its path."""
    return parameter.role == pattern if pattern in ROLES else fnmatch.fnmatchcase(path, pattern)


def no_match(setting: str, pattern: str, declared: Mapping[str, Parameter]) -> ValueError:
    """Return the error of a pattern that matches no parameter."""
    choices = [*dict.fromkeys(parameter.role for parameter in declared.values()), *declared]
    return ValueError(
        f"{setting}: {pattern!r} matches no parameter{checks.hint(pattern, choices)}; choose a role, one of "
        f"{', '.join(ROLES)}, or a pattern of the paths that `describe` prints"
    )


def select(setting: str, patterns: Sequence[str], declared: Mapping[str, Parameter]) -> frozenset[str]:
    """Return the paths of all parameters that match one of the patterns.

    Raises:
      ValueError: a pattern matches no parameter.
    """
    found = {pattern: [p for p, each in declared.items() if matches(pattern, p, each)] for pattern in patterns}
    for pattern, paths in found.items():
        if not paths:
            raise no_match(setting, pattern, declared)
    return frozenset(path for paths in found.values() for path in paths)


def split(tree: Mapping, paths: Collection[str], prefix: str = "") -> tuple[dict, dict]:
    """Return the tree of the leaves at these paths, and the tree of all others; neither has an empty branch."""
    inside, outside = {}, {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            parts = split(value, paths, f"{path}/")
        else:
            parts = (value, None) if path in paths else (None, value)
        for branch, part in zip((inside, outside), parts, strict=True):
            if part is not None and not (isinstance(part, Mapping) and not part):
                branch[name] = part
    return inside, outside


def merge(first: Mapping, second: Mapping) -> dict:
    """Return the tree of the leaves of both; they have no leaf in common."""
    merged = dict(first)
    for name, value in second.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def by_path(params, values: Mapping[str, Any]):
    """Return the tree of parameters with each leaf replaced by the value of its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values[jax.tree_util.keystr(path, simple=True, separator="/")], params
    )
