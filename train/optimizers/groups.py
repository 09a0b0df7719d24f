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


def table(groups: Sequence[str], weight_decay: float, declared: Mapping[str, Parameter]) -> str:
    """Return a table of parameters with equal settings: their number, roles, factor of the learning rate and decay."""
    rows: dict[Setting, tuple[int, dict[str, None]]] = {}
    for path, setting in settings_of(groups, weight_decay, declared).items():
        count, roles = rows.get(setting, (0, {}))
        rows[setting] = count + math.prod(declared[path].shape), {**roles, declared[path].role: None}
    lines = [("parameters", "learning rate", "weight decay", "roles")]
    for setting, (count, roles) in sorted(rows.items(), key=lambda item: -item[1][0]):
        lines.append((f"{count:,}", f"x {setting.learning_rate:g}", f"{setting.weight_decay:g}", ", ".join(roles)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
