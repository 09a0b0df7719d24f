"""Describe the shapes of an op's arguments by letters, check arrays against them, and find what a mesh may split.

A shape is a string of letters, one per axis, with these additions:

    "B T Hq K"               Hq is any multiple of H: grouped heads
    "B W-1 D"                one less than W
    "#D W"                   D or 1
    "B T *D | *D"            any number of axes; alternatives
    "? B H K V"              the argument may be None

Arguments are checked in the order of their declaration. The first array with a letter gives it its size.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

Shape = tuple[str, ...]
"""The letters of one array, one of the alternatives of its declaration."""


@functools.cache
def alternatives(declaration: str) -> tuple[Shape, ...]:
    """Return the alternative shapes of a declaration."""
    return tuple(tuple(shape.split()) for shape in declaration.removeprefix("?").split("|"))


def is_optional(declaration: str) -> bool:
    """Return whether the argument may be None."""
    return declaration.startswith("?")


def match(name: str, shape: tuple[int, ...], declaration: str, sizes: dict[str, Any]) -> Shape:
    """Return the alternative that an array's shape fits, and add the sizes of its new letters to `sizes`.

    Raises:
      ValueError: the shape fits no alternative, or an axis is empty.
    """
    choices = alternatives(declaration)
    for letters in choices:
        found = _fit(shape, letters, sizes)
        if found is not None:
            sizes.update(found)
            return letters
    expected = " or ".join(_expected(letters, shape, sizes) for letters in choices)
    raise ValueError(f"{name} must be {expected}, got shape {shape}")


def _fit(shape, letters, sizes):
    """Return the sizes of the letters that this shape gives a size, or None if it does not fit."""
    axes = _axes(shape, letters)
    found = {}
    if axes is None:
        return None
    for letter, size in axes:
        base, known = _base(letter), {**sizes, **found}
        if base not in known:
            if 0 in (size if isinstance(size, tuple) else (size,)):
                return None
            found[base] = size + 1 if letter.endswith("-1") else size
        elif not _agrees(letter, size, known[base]):
            return None
        if letter.endswith("q"):
            found[letter] = size
    return found


def _axes(shape, letters):
    """Return (letter, size) of each axis, a tuple of sizes for a starred letter; None for another number of axes."""
    star = next((i for i, letter in enumerate(letters) if letter.startswith("*")), None)
    if star is None:
        return list(zip(letters, shape, strict=True)) if len(shape) == len(letters) else None
    after = len(letters) - star - 1
    if len(shape) < star + after:
        return None
    inner = shape[star : len(shape) - after]
    last = zip(letters[star + 1 :], shape[len(shape) - after :], strict=True) if after else ()
    return [*zip(letters[:star], shape[:star], strict=True), (letters[star], inner), *last]


def _base(letter):
    """Return the letter whose size this one depends on: H of Hq, W of W-1, D of #D and of *D."""
    return letter.removesuffix("-1").removesuffix("q").lstrip("#*")


def _agrees(letter, size, known):
    if letter.endswith("q"):
        return size % known == 0 and size > 0
    if letter.endswith("-1"):
        return size == known - 1
    return size == known or (letter.startswith("#") and size == 1)


def _expected(letters, shape, sizes):
    """Return "(B, T, H) = (2, 5, 2)", where letters that no array has given a size have the size of this array."""
    written = f"({', '.join(letter.lstrip('#') for letter in letters)}{',' * (len(letters) == 1)})"
    axes = _axes(shape, letters)
    known = [_base(letter) in sizes for letter in letters]
    if not any(known):
        return f"{written}, no axis empty"
    parts = []
    for i, letter in enumerate(letters):
        base = _base(letter)
        if known[i]:
            size = sizes[base]
            if letter.startswith("*"):
                parts += [str(n) for n in size]
                continue
            size = f"a multiple of {size}" if letter.endswith("q") else size - letter.endswith("-1")
            parts.append(f"{size} or 1" if letter.startswith("#") else str(size))
        else:
            own = None if axes is None else axes[i][1]
            parts.append(letter if own in (None, 0) else str(own))
    return f"{written} = ({', '.join(parts)}{',' * (len(parts) == 1)})"


def on_mesh(letters: Shape, heads: str, shape: tuple[int, ...] | None = None) -> str:
    """Return what a mesh may split of an array of these letters: B, T and H for the heads' letter, "." for the rest.

    An axis "#D" of size 1 in `shape` is not split.
    """

    def one(i, letter):
        if letter in ("B", "T"):
            return letter
        shared = letter.startswith("#") and shape is not None and shape[i] == 1
        return "." if letter.endswith("-1") or _base(letter) != heads or shared else "H"

    return " ".join(one(i, letter) for i, letter in enumerate(letters))


def check_dtypes(arrays: Mapping[str, Any], complex_too: tuple[str, ...], equal: tuple[str, ...]) -> None:
    """Raise ValueError unless arrays are floating point: real, or complex if named in `complex_too`.

    Those named in `equal` must have one dtype.
    """
    for name, array in arrays.items():
        if name in complex_too:
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                raise ValueError(f"{name} must be real or complex floating point, got {array.dtype}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be bfloat16, float16, float32 or float64, got {array.dtype}")
    given = {name: arrays[name].dtype for name in equal if name in arrays}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in given.items())
        raise ValueError(f"{', '.join(given)} must have one dtype, got {listed}")


def check_reset(reset: Any, times: tuple[int, int]) -> None:
    """Raise ValueError unless `reset` is boolean (B, T)."""
    if reset.shape != times or reset.dtype != np.bool_:
        raise ValueError(f"reset must be boolean (B, T) = {times}, got {reset.dtype} of shape {reset.shape}")
