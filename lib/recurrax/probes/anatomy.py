"""List the sites of a model, the arrays that `record` returns and `intervene` replaces.

    name                        array                                                           shape
    embedding                   the embedded inputs, the stream's first value                   (B, T, D)
    3/stream_before             the residual stream before block 3                              (B, T, D)
    3/mixer/input               the mixer's input, after the norm if the block starts with one  (B, T, D)
    3/mixer/value_residual      the value residual of a layer below, if the mixer uses one      (B, T, E)
    3/mixer/values              and every other mark of its formula: `recurrax.mixers.marks`
    3/mixer/output              the mixer's output, before weights and norm of the sum          (B, T, D)
    3/mixer/state/s             the state after the last token; "3/mixer/state" if it is one array
    3/stream_between            the stream between mixer and projection                         (B, T, D)
    3/projection/input          the projection's input                                          (B, T, D)
    3/projection/hidden         its hidden units                                                (B, T, E)
    3/projection/output         its output                                                      (B, T, D)
    3/projection/state          its state, if it has one
    3/stream_after              the stream after block 3, which is "4/stream_before"            (B, T, D)
    final_norm                  the output of the final norm                                    (B, T, D)
    logits                      the outputs of a LanguageModel or a Classifier
    predictions                 the outputs of a Regressor

Blocks are numbered from the bottom, 0 to num_layers - 1, through `first`, the repeated pattern and `last` alike.
"""

import fnmatch
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax import checks, sites
from recurrax.models.backbone import BackboneConfig, block_name
from recurrax.models.block import BlockConfig
from recurrax.parameters import flat
from recurrax.probes import arguments
from recurrax.types import Array, ArrayLike, PyTree, Reset, State

BEFORE = ("stream_before", "mixer/input", "mixer/value_residual")
AFTER = ("mixer/output", "mixer/state", "stream_between", "projection/input", "projection/hidden", "projection/output")


class Place(NamedTuple):
    """Where a block is in the program and in the trees of parameters and sites."""

    number: int
    """Number of blocks below."""
    path: tuple[str, str, str]
    """Keys of its subtree: ("backbone", "groups", "0_gla")."""
    repeat: int | None
    """Index along the leading axis of its arrays, which the scan over depth stacks; None outside of the scan."""
    block: BlockConfig


class Site(NamedTuple):
    """One array of one block, or of the model."""

    key: str
    """Its key in the program, the same for all repeats of a block: `recurrax.sites`."""
    repeat: int | None
    shape: jax.ShapeDtypeStruct
    """Shape and dtype, of this repeat alone."""
    owner: str
    """Type of the layer: "GLA"; "Block" for the stream, the model's type for what is outside of blocks."""


def places(config: BackboneConfig) -> Iterator[Place]:
    """Yield the place of each block, from the bottom."""
    layout, number = config.layout, 0
    parts = [("first", layout.first, None), *(("groups", layout.pattern, r) for r in range(layout.repeats))]
    for group, blocks, repeat in (*parts, ("rest", layout.rest, None)):
        for i, block in enumerate(blocks):
            yield Place(number, ("backbone", group, block_name(i, block)), repeat, block)
            number += 1


def names(model: nn.Module) -> dict[str, str]:
    """Return the name of every site of the model, with the type of the layer it is in, from the bottom.

    A site that exists for longer calls alone, as that of values that a layer computes otherwise for a single token, is
    included.

    Raises:
      ValueError: `model` is not a LanguageModel, Classifier or Regressor.
    """
    arguments.check_model(model)
    dtype = jnp.int32 if model.config.vocab_size else jnp.float32
    inputs = jax.ShapeDtypeStruct((1, 2) if model.config.vocab_size else (1, 2, 1), dtype)
    params = arguments.init_shapes(model, inputs)
    return {name: site.owner for name, site in find_sites(model, params, inputs, None, None).items()}


def find_sites(
    model: nn.Module,
    params: PyTree,
    inputs: ArrayLike | jax.ShapeDtypeStruct,
    state: State | None,
    reset: Reset | None,
) -> dict[str, Site]:
    """Return the sites of the model by name when it is applied to these inputs. Nothing is computed."""
    shapes, found = _shapes.eval_shape(model, params, inputs, state, reset), {}
    blocks = {place: "/".join((*place.path, "")) for place in places(model.config)}
    outside = [key for key in shapes if not key.startswith(tuple(blocks.values()))]
    outputs = [key for key in outside if key not in ("embedding", "backbone/final_norm")]
    found["embedding"] = Site("embedding", None, shapes["embedding"], type(model).__name__)
    for place, prefix in blocks.items():
        for name in sorted((key.removeprefix(prefix) for key in shapes if key.startswith(prefix)), key=_order):
            shape = shapes[prefix + name]
            if place.repeat is not None:
                shape = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
            owner = type(place.block.layers.get(name.split("/")[0], place.block)).__name__.removesuffix("Config")
            found[f"{place.number}/{name}"] = Site(prefix + name, place.repeat, shape, owner)
    for key in ("backbone/final_norm", *outputs):
        found[key.removeprefix("backbone/")] = Site(key, None, shapes[key], type(model).__name__)
    return found


def select(found: dict[str, Site], patterns: Iterable[str]) -> list[str]:
    """Return the names that match one of the patterns, in the order of `found`.

    Raises:
      ValueError: a pattern matches none.
    """
    chosen = set()
    for pattern in patterns:
        matches = fnmatch.filter(found, pattern)
        if not matches:
            hint = checks.hint(pattern, found)
            raise ValueError(f"no site of this model is named {pattern!r}{hint}; choose from {_summary(found)}")
        chosen.update(matches)
    return [name for name in found if name in chosen]


def recorded(collections: PyTree) -> dict[str, Array]:
    """Return the recorded arrays by key."""
    return flat(collections.get(sites.COLLECTION, {}))


# Only traced, never run.
@functools.partial(jax.jit, static_argnums=0)
def _shapes(model, params, inputs, state, reset):
    with sites.probing(sites.Probe(records=lambda key: True)):
        return recorded(model.apply(params, inputs, state, reset=reset, mutable=[sites.COLLECTION])[1])


def _order(name):
    """Sort key of a block's sites: marks of a mixer between its input and its output."""
    for i, start in enumerate(BEFORE):
        if name == start:
            return i, name
    for i, start in enumerate((*AFTER, "projection/", "stream_after")):
        if name.startswith(start):
            return len(BEFORE) + 1 + i, name
    return len(BEFORE), name


def _summary(found):
    """Names for a message, with those of blocks that have the same site as one: "0,2,4/mixer/values"."""
    numbers: dict[str, list[str]] = {}
    for name in found:
        number, _, rest = name.partition("/")
        numbers.setdefault(rest or name, []).append(number)
    return ", ".join(f"{','.join(blocks)}/{rest}" if rest not in found else rest for rest, blocks in numbers.items())
