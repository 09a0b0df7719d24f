"""Provides `Family`, which converts a config.json to our config and back and holds the table of the tensors."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from recurrax.mixers import MixerConfig
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.fields import Fields
from recurrax.pretrained.rules import Rule


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of checkpoints of one architecture."""

    name: str
    """Value of `model_type` in config.json."""
    architecture: str
    """Name of the class in `architectures` in config.json."""
    mixers: tuple[type[MixerConfig], ...]
    """Types of the mixers; every model of the family has all of them."""
    read_config: Callable[[Fields], LanguageModelConfig]
    """Function from config.json to the model's config. Raises ValueError if the library has no such model."""
    write_config: Callable[[LanguageModelConfig], dict[str, Any]]
    """Inverse of read_config: the fields of config.json for a config, without `model_type` and `architectures`."""
    model: Callable[[LanguageModelConfig], Iterable[Rule]]
    """Rules of the tensors outside of blocks; `ours` are paths such as embedding, backbone/norm/scale, out_kernel."""
    block: Callable[[LanguageModelConfig, BlockConfig, int], Iterable[Rule]]
    """Rules of the i-th block; `theirs` are full names, `ours` paths within the block: mixer_norm/scale, mixer/in_q."""
    ignored: Sequence[str] = ()
    """Regular expressions of tensors that checkpoints may have and that are not read."""
    ignored_fields: Sequence[str] = ()
    """Fields of config.json that do not affect logits, in addition to `bookkeeping.IGNORED`."""


def arranged(blocks: Sequence[BlockConfig]) -> dict[str, Any]:
    """Return num_layers, first, pattern and last of a config with these blocks that compiles the fewest blocks."""
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
        last = ()  # these layers are a truncated repetition of the pattern
    return {"num_layers": length, "first": tuple(blocks[:start]), "pattern": pattern, "last": last}


def blocks_of(config: LanguageModelConfig) -> tuple[BlockConfig, ...]:
    """Return every block of a model, from the bottom to the top."""
    layout = config.layout
    return layout.first + layout.repeats * layout.pattern + layout.rest
