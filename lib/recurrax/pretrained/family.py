"""Declares what a family of checkpoints is: its config.json as our config and back, and the table of its tensors."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from recurrax.mixers import MixerConfig
from recurrax.models import BlockConfig, LanguageModelConfig
from recurrax.pretrained.fields import Fields
from recurrax.pretrained.rules import Rule


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
    ignored_fields: Sequence[str] = ()
    """Fields of config.json that logits do not depend on, beside those that files of every family have."""


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
