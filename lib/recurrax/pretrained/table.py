"""Places a family's rules in a model: maps each published tensor to the paths of its parameters."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrax.models import LanguageModelConfig, parameters
from recurrax.models.backbone import block_name
from recurrax.pretrained.family import Family, blocks_of
from recurrax.pretrained.rules import Rule


class Entry(NamedTuple):
    """A rule with the full paths of its parameters, and their index in the stacked layers."""

    rule: Rule
    paths: tuple[str, ...]
    index: int | None = None
    """Index among the layers that a scan stacks; None: not stacked."""


def entries(family: Family, config: LanguageModelConfig) -> list[Entry]:
    """Return the family's complete table for this model."""
    table = [Entry(rule, rule.ours) for rule in family.model(config)]
    layout = config.layout
    for i, block in enumerate(blocks_of(config)):
        slot, index = i - len(layout.first), None
        if slot < 0:
            place = f"first/{block_name(i, block)}"
        elif slot < layout.repeats * len(layout.pattern):
            index, slot = divmod(slot, len(layout.pattern))
            place = f"groups/{block_name(slot, block)}"
        else:
            slot -= layout.repeats * len(layout.pattern)
            place = f"rest/{block_name(slot, block)}"
        place = f"backbone/{place}"
        for rule in family.block(config, block, i):
            table.append(Entry(rule, tuple(f"{place}/{name}" for name in rule.ours), index))
    return table


def abstract(config: LanguageModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the mapping from path to shape of every parameter, which a model creates in float32."""
    return {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in parameters(config).items()}


def published(table: list[Entry], leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the mapping from name to shape of every published tensor, computed from the parameters' shapes."""
    covered = sorted(path for entry in table for path in entry.paths if entry.index in (None, 0))
    assert covered == sorted(leaves), f"the table leaves out or repeats {set(covered) ^ set(leaves)}"
    shapes = {}
    for entry in table:
        ours = tuple(
            jax.ShapeDtypeStruct(leaves[path].shape[entry.index is not None :], leaves[path].dtype)
            for path in entry.paths
        )
        shapes |= zip(entry.rule.theirs, jax.eval_shape(entry.rule.write, ours), strict=True)
    return shapes


def stacks(table: list[Entry]) -> Iterable[list[Entry]]:
    """Return the entries grouped by parameters: all layers of a stack, or a single entry."""
    found: dict[tuple[str, ...], list[Entry]] = {}
    for entry in table:
        found.setdefault(entry.paths, []).append(entry)
    return found.values()


def names_in(rule: Rule, found: Collection[str]) -> tuple[str, ...]:
    """Return the names of the rule's tensors, or their alternative names, whichever are all in `found`."""
    for names in (rule.theirs, *rule.aliases):
        if all(name in found for name in names):
            return names
    return rule.theirs


def compare(
    place: str,
    found: Mapping[str, tuple[int, ...]],
    table: list[Entry],
    leaves: Mapping[str, Any],
    ignored: Collection[str],
) -> None:
    """Raise ValueError with all differences between the names and shapes in a file and those of a table.

    Args:
      place: location of the file, for the message.
      found: mapping from name to shape of the file's tensors.
      table: entries of the model.
      leaves: mapping from path to shape of every parameter.
      ignored: regular expressions of names that may be in the file without being in the table.
    """
    shapes = published(table, leaves)
    wanted = {}
    for entry in table:
        wanted |= {
            name: shapes[ours] for ours, name in zip(entry.rule.theirs, names_in(entry.rule, found), strict=True)
        }
    lines = [f"  missing: {name} {shape.shape}" for name, shape in wanted.items() if name not in found]
    for name, shape in sorted(found.items()):
        if name not in wanted:
            if not any(re.fullmatch(pattern, name) for pattern in ignored):
                lines.append(f"  unknown: {name} {shape}")
        elif shape != wanted[name].shape:
            lines.append(f"  of another shape: {name} {shape}, should be {wanted[name].shape}")
    if lines:
        raise ValueError(f"the tensors in {place} are not those of its config.json:\n" + "\n".join(lines))
