"""What a family of checkpoints is: its config.json as our config and back, and the table of its tensors."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from recurrax.mixers import MixerConfig
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.rules import Rule


class Fields:
    """The fields of a config.json, read with their defaults."""

    def __init__(self, values: Mapping[str, Any], path: str = "config.json"):
        self.values = values
        self.path = path

    def take(self, name: str, *default: Any) -> Any:
        """The field's value, or the default. Raises ValueError where it is missing and has none."""
        if name not in self.values and not default:
            raise ValueError(f"{self.path} has no {name}")
        value = self.values.get(name, *default)
        # A null means that the default holds, where there is one.
        return default[0] if value is None and default else value

    def require(self, name: str, *allowed: Any) -> Any:
        """The field's value, which has to be one of these; the first is the default."""
        value = self.values.get(name, allowed[0])
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise ValueError(f"{self.path}: {name} {value!r} is not supported; it would have to be {choices}")
        return value


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints of one architecture."""

    name: str
    """`model_type` in config.json."""
    architecture: str
    """Name of the class in `architectures`."""
    mixers: tuple[type[MixerConfig], ...]
    """Those that its models have, all of them in every model."""
    read_config: Callable[[Fields], LanguageModelConfig]
    """The model that a config.json describes. Raises ValueError where we have no such model."""
    write_config: Callable[[LanguageModelConfig], dict[str, Any]]
    """The fields of config.json, `model_type` and `architectures` aside, that read_config reads back as this config."""
    model: Callable[[LanguageModelConfig], Iterable[Rule]]
    """Rules of what is there once; `ours` as embedding, backbone/norm/scale, out_kernel."""
    block: Callable[[LanguageModelConfig, BlockConfig, int], Iterable[Rule]]
    """Rules of the i-th block; `theirs` are whole names, `ours` within the block: mixer_norm/scale, mixer/in_q."""
    ignored: Sequence[str] = ()
    """Regular expressions of tensors that checkpoints may have and nothing depends on."""


def arranged(blocks: Sequence[BlockConfig]) -> dict[str, Any]:
    """num_layers, first, pattern and last of a config with these blocks, such that the fewest are compiled."""
    kinds: dict[BlockConfig, int] = {}
    codes = [kinds.setdefault(block, len(kinds)) for block in blocks]
    length, best = len(codes), None
    for start in range(length):
        for period in range(1, length - start + 1):
            end = start + period
            while end + period <= length and codes[end : end + period] == codes[start : start + period]:
                end += period
            alone = start + length - end
            cost = (alone + period, alone)
            if best is None or cost < best[0]:
                best = (cost, start, period, end)
    _, start, period, end = best
    pattern, last = tuple(blocks[start : start + period]), tuple(blocks[end:])
    if last == pattern[: len(last)]:
        last = ()  # the pattern's own last repetition, cut short
    return {"num_layers": length, "first": tuple(blocks[:start]), "pattern": pattern, "last": last}


def blocks_of(config: LanguageModelConfig) -> tuple[BlockConfig, ...]:
    """Every block of a model, from the bottom."""
    layout = config.layout
    return layout.first + layout.repeats * layout.pattern + layout.rest
