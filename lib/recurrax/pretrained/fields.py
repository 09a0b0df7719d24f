"""Reads the fields of a config.json by their types, and records which of them were read."""

import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

REQUIRED: Any = object()
"""Marks a field without a default, which must be present."""

LARGEST = 2**31 - 1
"""Largest whole number that is accepted: sizes are smaller, and arithmetic with floats is exact."""

INFINITIES = {"Infinity": math.inf, "inf": math.inf, "-Infinity": -math.inf, "-inf": -math.inf}
"""Strings that are read as infinities, which JSON has no number for."""


class Fields:
    """The fields of one JSON object, read with the defaults of the published code.

    Every reader raises ValueError with the field's name if the field has another JSON type, or if it is null and the
    default is not None. Every reader marks its field as known; `finish` reports the others.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "config.json"):
        self.values = values
        self.path = path
        self._known: set[str] = set()
        self._nested: dict[str, Fields] = {}

    def integer(self, name: str, default: Any = REQUIRED, *, least: int = 1, null: bool = False) -> Any:
        """Return a whole number of at least `least` (2.0 is read as 2), or None for null if null is allowed.

        Raises:
          ValueError: the field has any other value.
        """
        value = self._value(name, default, null)
        if value is None:
            return None
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not whole or not least <= value <= LARGEST:
            raise self._wrong(name, value, f"a whole number of at least {least}")
        return int(value)

    def number(self, name: str, default: Any = REQUIRED, *, null: bool = False) -> Any:
        """Return a finite number as a float, or None for null if null is allowed. Raises ValueError otherwise."""
        value = self._value(name, default, null)
        return None if value is None else self._number(name, value, finite=True)

    def bounds(self, name: str, default: Any = REQUIRED) -> tuple[float, float]:
        """Return a pair of numbers, which may be infinite. Raises ValueError for any other value."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise self._wrong(name, value, "a list of two numbers")
        low, high = (self._number(name, each, finite=False) for each in value)
        return low, high

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return a boolean. Raises ValueError for any other value, including 0 and 1."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def integers(self, name: str, default: Any = REQUIRED) -> Any:
        """Return a list of non-negative whole numbers. Raises ValueError for any other value."""
        value = self._value(name, default)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(type(each) is int and each >= 0 for each in value):
            raise self._wrong(name, value, "a list of whole numbers")
        return list(value)

    def kinds(self, name: str, choices: Iterable[str], default: Any = REQUIRED, *, length: int | None = None) -> Any:
        """Return a list of words in `choices`, of `length` if it is given. Raises ValueError for any other value."""
        value, choices = self._value(name, default), list(choices)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not value or not all(each in choices for each in value):
            raise self._wrong(name, value, f"a list of {' and '.join(map(repr, choices))}")
        if length is not None and len(value) != length:
            raise ValueError(f"{self.path}: {name} names {len(value)} layers, the model has {length}")
        return list(value)

    def nested(self, name: str) -> "Fields":
        """Return the fields of a nested object, none if it is null or absent. Raises ValueError for any other value."""
        value = self._value(name, None)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return self._nested.setdefault(name, Fields(value or {}, f"{self.path}: {name}"))

    def first(self, *names: str) -> str:
        """Return the first of a field's names that the file has, or the last name; mark all of them as known."""
        self.ignore(*names)
        return next((name for name in names if name in self.values), names[-1])

    def require(self, name: str, *allowed: Any) -> Any:
        """Return the field's value. Raises ValueError if it is not in `allowed`, the first of which is the default."""
        self._known.add(name)
        value = self.values.get(name, allowed[0])
        # 1 == True in Python, not in JSON.
        if not any(isinstance(value, bool) == isinstance(each, bool) and value == each for each in allowed):
            choices = " or ".join("null" if each is None else repr(each) for each in allowed)
            raise ValueError(f"{self.path}: {name} {value!r} is not supported; it would have to be {choices}")
        return value

    def ignore(self, *names: str) -> None:
        """Mark fields as known without reading them."""
        self._known.update(names)

    def refuse_others(self) -> None:
        """Raise ValueError if there are fields that are not known."""
        if unknown := self._unknown():
            raise ValueError(f"{self.path}: {', '.join(unknown)} is not supported")

    def finish(self) -> None:
        """Warn of the fields that are not known, by name, including those of nested objects."""
        if unknown := self._unknown():
            # stacklevel: the warning points to the caller of `load` or `save`.
            warnings.warn(f"{self.path} has unknown fields, which are ignored: {', '.join(unknown)}", stacklevel=5)

    def _unknown(self) -> list[str]:
        nested = [f"{name}.{each}" for name, fields in self._nested.items() for each in fields._unknown()]
        return sorted(self.values.keys() - self._known) + nested

    def _value(self, name, default, null=False):
        self._known.add(name)
        if name not in self.values:
            if default is REQUIRED:
                raise ValueError(f"{self.path} has no {name}")
            return default
        value = self.values[name]
        if value is None and default is not None and not null:
            raise ValueError(f"{self.path}: {name} is null; it needs a value" + _otherwise(default))
        return value

    def _number(self, name, value, *, finite):
        if isinstance(value, str):
            value = INFINITIES.get(value, value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, "a number")
        # A whole number that exceeds the range of floats is treated as an infinity.
        size = math.inf if isinstance(value, int) and abs(value) > sys.float_info.max else float(value)
        if math.isnan(size) or (finite and math.isinf(size)):
            raise self._wrong(name, value, "a finite number" if finite else "a number")
        return size

    def _wrong(self, name, value, wanted):
        return ValueError(f"{self.path}: {name} is {value!r}; it would have to be {wanted}")


def _otherwise(default):
    return "" if default is REQUIRED else f", or be left out for {default!r}"
