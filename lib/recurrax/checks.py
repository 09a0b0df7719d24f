"""The errors that configs and layers share: early, with the value that was given and what would do."""

import dataclasses
import difflib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from recurrax.types import ArrayLike, PyTree


def positive(config, *names: str) -> None:
    """Raises ValueError if one of these fields is not above 0; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def hashable(config) -> None:
    """Make tuples of the lists among the fields, at any depth: jit and Linen need the hash of a config.

    Called first in `__post_init__` by every config that has a field of several values.

    Raises:
      ValueError: another field has no hash, such as a dict or an array.
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
    """Raises ValueError if the value is none of the choices, with the one that is spelt most like it."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}{hint(value, choices)}; choose one of {', '.join(choices)}")


def dtype_name(value, choices: Iterable[str]):
    """The choice that names this dtype, of which `jnp.bfloat16` is another name; the value itself if none does."""
    return next((name for name in choices if jnp.dtype(name) == value), value)


def not_empty(name: str, array: ArrayLike) -> None:
    """Raises ValueError if an axis of the array is empty: there is no sequence of no tokens and no batch of no rows."""
    if 0 in array.shape:
        raise ValueError(f"{name} must have no empty axis, got shape {array.shape}")


def hint(value, choices: Iterable[str]) -> str:
    """ " (did you mean 'this'?)" where one of the choices is spelt like the value; else nothing."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def ordered(config, low: str, high: str) -> None:
    """Raises ValueError if the field `low` is above the field `high`."""
    if getattr(config, low) > getattr(config, high):
        raise ValueError(f"{low} {getattr(config, low)} is above {high} {getattr(config, high)}")


def head_sizes(config, *, keys: int, values: int) -> tuple[int, int]:
    """K and V: the config's head_dim and value_head_dim, or those widths dealt to its heads."""
    return (
        config.head_dim or per_head("head_dim", keys, config.num_heads),
        config.value_head_dim or per_head("value_head_dim", values, config.num_heads),
    )


def per_head(name: str, width: int, num_heads: int) -> int:
    """width / num_heads. Raises ValueError where that is no whole number; `name` is the field that would set it."""
    if width % num_heads:
        raise ValueError(f"width {width} is not divisible by num_heads {num_heads}; change one of them or set {name}")
    return width // num_heads


def is_known(array) -> bool:
    """Return whether the values can be looked at: not while tracing, nor where other processes hold a part of them."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def tokens(array, vocab_size: int) -> None:
    """Raises ValueError if a token whose value is known is not in the vocabulary."""
    if is_known(array) and (known := np.asarray(array)).size and not 0 <= known.min() <= known.max() < vocab_size:
        raise ValueError(f"tokens must be from 0 to {vocab_size - 1}, got {known.min()} to {known.max()}")


def same_structure(owner: str, state: PyTree, want: PyTree) -> None:
    """Raises ValueError unless the state has the leaves of `want`, by path and shape; lists all that differ."""
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
