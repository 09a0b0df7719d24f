"""Check config fields and inputs of layers: errors are raised early and name the value and the valid choices."""

import dataclasses
import difflib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from recurrax.types import ArrayLike, PyTree


def positive(config, *names: str) -> None:
    """Raise ValueError if one of these fields is not above 0; None is accepted."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def not_negative(config, *names: str) -> None:
    """Raise ValueError if one of these fields is below 0, or no number."""
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def hashable(config) -> None:
    """Convert lists among the fields to tuples, at any depth: jit and Linen need the hash of a config.

    Every config that has a field of several values calls this first in `__post_init__`.

    Raises:
      ValueError: a field is not hashable, such as a dict or an array.
    """
    for field in dataclasses.fields(config):
        value = _as_tuples(getattr(config, field.name))
        try:
            hash(value)
        except TypeError:
            kind = type(value).__name__
            raise ValueError(f"{field.name} must be hashable, such as a tuple, got the {kind} {value!r}") from None
        object.__setattr__(config, field.name, value)


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if type(value) in (list, tuple) else value


def choice(name: str, value, choices: Iterable[str]) -> None:
    """Raise ValueError if the value is not one of the choices; the message suggests the closest spelling."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}{hint(value, choices)}; choose one of {', '.join(choices)}")


def dtype_name(value, choices: Iterable[str]):
    """Return the choice that names this dtype, such as "bfloat16" for `jnp.bfloat16`; the value itself if none does."""
    return next((name for name in choices if jnp.dtype(name) == value), value)


def not_empty(name: str, array: ArrayLike) -> None:
    """Raise ValueError if an axis of the array is empty: sequences need at least one token, batches one row."""
    if 0 in array.shape:
        raise ValueError(f"{name} must have no empty axis, got shape {array.shape}")


def hint(value, choices: Iterable[str]) -> str:
    """Return " (did you mean 'this'?)" if one of the choices is spelt like the value, else ""."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def ordered(config, low: str, high: str) -> None:
    """Raise ValueError if the field `low` is above the field `high`."""
    if getattr(config, low) > getattr(config, high):
        raise ValueError(f"{low} {getattr(config, low)} is above {high} {getattr(config, high)}")


def head_sizes(config, *, keys: int, values: int) -> tuple[int, int]:
    """Return K and V: the config's head_dim and value_head_dim, or those widths divided among its heads."""
    return (
        config.head_dim or per_head("head_dim", keys, config.num_heads),
        config.value_head_dim or per_head("value_head_dim", values, config.num_heads),
    )


def per_head(name: str, width: int, num_heads: int) -> int:
    """Return width / num_heads.

    Raises:
      ValueError: the quotient is not an integer; the message suggests to set the field `name`.
    """
    if width % num_heads:
        raise ValueError(f"width {width} is not divisible by num_heads {num_heads}; change one of them or set {name}")
    return width // num_heads


def is_known(array) -> bool:
    """Return whether the values can be read: not while tracing, nor if other processes hold a part of them."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def tokens(array, vocab_size: int) -> None:
    """Raise ValueError if a token whose value is known is not in the vocabulary."""
    if is_known(array) and (known := np.asarray(array)).size and not 0 <= known.min() <= known.max() < vocab_size:
        raise ValueError(f"tokens must be from 0 to {vocab_size - 1}, got {known.min()} to {known.max()}")


def same_structure(owner: str, state: PyTree, want: PyTree) -> None:
    """Raise ValueError unless the state has the leaves of `want`, by path and shape; the message lists differences."""
    got, want = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state, want)
    )
    if got == want:
        return
    lines = [
        f"  state{path}: {got.get(path, 'missing')}, should be {want.get(path, 'absent')}"
        for path in sorted(got.keys() | want.keys())
        if got.get(path) != want.get(path)
    ]
    raise ValueError(f"this is no state of {owner} for such inputs (is it of another layer?):\n" + "\n".join(lines))
