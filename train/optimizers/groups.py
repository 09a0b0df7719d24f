"""Provides groups of parameters with learning rates and weight decay of their own.

    "recurrence=0.1"         the learning rate of all parameters of this role, times 0.1
    "*/embedding=0.5,0"      that of all parameters whose path matches, times 0.5; no weight decay

The path of a parameter is that of `--describe`. The first group that a parameter matches applies.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from recurrax import patterns
from recurrax.parameters import Parameter


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings of the parameters that match a role or a pattern of paths."""

    pattern: str
    """A role, or a pattern of paths with `*` and `?`."""
    learning_rate: float
    """Factor of the learning rate."""
    weight_decay: float | None
    """Weight decay of all parameters of the group; None: that of their roles."""

    def matches(self, path: str, parameter: Parameter) -> bool:
        """Return whether the parameter belongs to the group."""
        return patterns.matches(self.pattern, path, parameter)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The factor of the learning rate and the weight decay of one parameter."""

    learning_rate: float = 1.0
    """Factor of the learning rate."""
    weight_decay: float = 0.0


def parse_group(group: str) -> Group:
    """Return the group "PATTERN=FACTOR" or "PATTERN=FACTOR,DECAY".

    Raises:
      ValueError: the text has another form, or a number is negative or not finite.
    """
    pattern, separator, numbers = group.rpartition("=")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if not (separator and pattern and 1 <= len(values) <= 2 and all(0 <= value < math.inf for value in values)):
        raise ValueError(
            f"optimizer.groups must be PATTERN=FACTOR or PATTERN=FACTOR,DECAY with numbers in [0, inf), got {group!r}"
        )
    return Group(pattern, values[0], values[1] if len(values) == 2 else None)


def settings_of(groups: Sequence[str], weight_decay: float, declared: Mapping[str, Parameter]) -> dict[str, Setting]:
    """Return the setting of every parameter by its path.

    Raises:
      ValueError: a group matches no parameter that an earlier group has not taken.
    """
    parsed, used, found = [parse_group(group) for group in groups], set(), {}
    for path, parameter in declared.items():
        group = next((group for group in parsed if group.matches(path, parameter)), None)
        decay = weight_decay if parameter.is_decayed else 0.0
        if group is None:
            found[path] = Setting(parameter.learning_rate, decay)
            continue
        used.add(group)
        decay = decay if group.weight_decay is None else group.weight_decay
        found[path] = Setting(group.learning_rate * parameter.learning_rate, decay)
    for group in parsed:
        if group not in used:
            raise patterns.no_match("optimizer.groups", group.pattern, declared)
    return found


def table(
    groups: Sequence[str],
    weight_decay: float,
    declared: Mapping[str, Parameter],
    norms: Mapping[str, float] | None = None,
) -> str:
    """Return a table of parameters with equal settings: their number, factor of the learning rate, decay and roles.

    With the norm of each parameter it also has that of all of a row.
    """
    rows: dict[Setting, list[str]] = {}
    for path, setting in settings_of(groups, weight_decay, declared).items():
        rows.setdefault(setting, []).append(path)
    found = [(sum(math.prod(declared[path].shape) for path in paths), setting) for setting, paths in rows.items()]
    lines = [("parameters", *(() if norms is None else ("norm",)), "learning rate", "weight decay", "roles")]
    for count, setting in sorted(found, key=lambda row: -row[0]):
        paths = rows[setting]
        roles = ", ".join(dict.fromkeys(declared[path].role for path in paths))
        norm = () if norms is None else (f"{math.hypot(*(norms[path] for path in paths)):.4g}",)
        lines.append((f"{count:,}", *norm, f"x {setting.learning_rate:g}", f"{setting.weight_decay:g}", roles))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
