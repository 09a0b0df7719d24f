"""Reads settings that are written as the expression that constructs them, and evaluates nothing else.

    --model.pattern "(GLA(num_heads=8), GLA(num_heads=8), Attention(window=512))"
    --optimizer "Muon(learning_rate=0.02, schedule=Linear(decay_steps=500))"

An expression is a call of a config class with literals, tuples and further calls as arguments. A field takes one if its
annotation names a config class, such as `model.pattern` and `optimizer`; all other fields are plain settings.
"""

import ast
import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from recurrax import adapters, checks, mixers, models, projections, tasks
from train import data, objectives, optimizers, parametrization, starts

BASES = (
    *(mixers.MixerConfig, projections.ProjectionConfig, models.BackboneConfig),
    *(optimizers.Optimizer, optimizers.Schedule, objectives.Objective, tasks.Task, starts.Start),
    parametrization.Parametrization,
    *(adapters.Adapter, adapters.Adapted),
)
"""Classes that have no use but through those that inherit from them."""


def _config_classes(*modules) -> dict[str, type]:
    """Return the frozen dataclasses that the modules export: layers of Linen are not frozen."""
    exported = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {
        name: value
        for name, value in exported.items()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__dataclass_params__.frozen
        and value not in BASES
    }


CONFIGS: Mapping[str, type] = _config_classes(
    mixers, projections, models, adapters, optimizers, objectives, tasks, data, starts, parametrization
)
"""The classes that an expression may call, by the names that their packages export."""


def evaluate(text: str, classes: Mapping[str, type] = CONFIGS) -> Any:
    """Return the value of an expression.

    Raises:
      ValueError: the text is not an expression of calls and literals, names an unknown class or field, or the class
        refuses its fields.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r}: {error.msg}") from None
    return _Reader(text, classes).value(tree)


@dataclasses.dataclass(frozen=True)
class _Reader:
    text: str
    classes: Mapping[str, type]

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Call(func=ast.Name(id=name)):
                return self._call(name, node)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(map(self.value, items))
            case ast.Name(id="inf"):
                return float("inf")
            case ast.Name(id=name):
                raise ValueError(f"{name!r} in {self.text!r} is neither a literal nor a call{self._hint(name)}")
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(
                f"{ast.unparse(node)!r} in {self.text!r} is code: only calls of config classes, tuples and literals "
                "are read"
            ) from None

    def _call(self, name: str, node: ast.Call) -> Any:
        if name not in self.classes:
            raise ValueError(f"unknown name {name!r} in {self.text!r}{self._hint(name)}")
        cls = self.classes[name]
        fields = [field.name for field in dataclasses.fields(cls) if field.init]
        in_order = [field.name for field in dataclasses.fields(cls) if field.init and not field.kw_only]
        if len(node.args) > len(in_order):
            raise ValueError(f"{name} takes at most {len(in_order)} values, got {len(node.args)} in {self.text!r}")
        values = dict(zip(in_order, map(self.value, node.args), strict=False))
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError(f"** in {self.text!r} is code: only calls, tuples and literals are read")
            if keyword.arg not in fields:
                raise ValueError(
                    f"{name} has no field {keyword.arg!r}{checks.hint(keyword.arg, fields)}; it has {', '.join(fields)}"
                )
            if keyword.arg in values:
                raise ValueError(f"{name} got {keyword.arg!r} twice in {self.text!r}")
            values[keyword.arg] = self.value(keyword.value)
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.init and field.name not in values and field.default is field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"{name} in {self.text!r} needs {', '.join(missing)}")
        return cls(**values)

    def _hint(self, name: str) -> str:
        return checks.hint(name, self.classes)


def takes_expression(config, path: Sequence[str]) -> bool:
    """Return whether the setting at this path of field names holds configs."""
    for name in path[:-1]:
        config = getattr(config, name, None)
    if not dataclasses.is_dataclass(config):
        return False
    return _names_a_config(typing.get_type_hints(type(config)).get(path[-1]))


def _names_a_config(hint) -> bool:
    return dataclasses.is_dataclass(hint) or any(map(_names_a_config, typing.get_args(hint)))


def apply(config, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the config with all settings that are expressions, and the other arguments.

    Args:
      config: a config of configs.
      arguments: words of a command line, `--a.b VALUE` or `--a.b=VALUE`.

    Raises:
      ValueError: as `evaluate`; or a value is of a class that its field does not hold.
    """
    found, rest, words = {}, [], list(arguments)
    while words:
        word = words.pop(0)
        flag, separator, value = word.partition("=")
        path = tuple(flag.removeprefix("--").replace("-", "_").split("."))
        if flag.startswith("--") and takes_expression(config, path) and (separator or words):
            found[path] = flag, _given(flag, value if separator else words.pop(0))
        else:
            rest.append(word)
    return _replaced(config, found), rest


def choices(config) -> dict[str, list[str]]:
    """Return the settings of a config that are configs themselves, and the classes that may be written for each."""
    hints = typing.get_type_hints(type(config))
    found = {}
    for field in dataclasses.fields(config):
        wanted = _classes(hints[field.name])
        names = [name for name, cls in CONFIGS.items() if issubclass(cls, wanted)] if wanted else []
        if len(names) > 1:
            found[field.name] = names
    return found


def _given(flag: str, text: str) -> Any:
    """Return the value of an expression; --data may name a function of the user's own instead, as mine:source."""
    if flag == "--data" and re.fullmatch(r"[^()'\"]+:\w+", text.strip()):
        return data.FunctionData(text.strip())
    return evaluate(text)


def _replaced(config, found: Mapping[tuple[str, ...], tuple[str, Any]]):
    """Return the config with the values at these paths, all at once: a model and its objective change together."""
    fields = {}
    for name in dict.fromkeys(path[0] for path in found):
        value = getattr(config, name)
        if (name,) in found:
            flag, given = found[name,]
            value = _fitting(typing.get_type_hints(type(config))[name], given, flag)
        inner = {path[1:]: each for path, each in found.items() if path[0] == name and len(path) > 1}
        fields[name] = _replaced(value, inner) if inner else value
    return dataclasses.replace(config, **fields)


def _fitting(hint, value, flag: str):
    """Return the value, in a tuple if the field is one of several configs.

    Raises:
      ValueError: the value, or one of several, is not one that the annotation names.
    """
    several = typing.get_origin(hint) is tuple
    values = value if several and isinstance(value, tuple) else (value,)
    wanted = _classes(hint)
    for each in values:
        if not isinstance(each, wanted) and not (each is None and type(None) in typing.get_args(hint)):
            names = " or ".join(cls.__name__ for cls in wanted)
            raise ValueError(f"{flag} must be {'several of ' * several}{names}, got {each!r}")
    return values if several else value


def _classes(hint) -> tuple[type, ...]:
    if dataclasses.is_dataclass(hint):
        return (hint,)
    return tuple(cls for each in typing.get_args(hint) for cls in _classes(each))
