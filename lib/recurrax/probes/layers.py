"""Provide `given`, which returns every mixer of a model with its parameters and inputs, to be examined alone."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax.layers import Depth
from recurrax.mixers import MixerConfig
from recurrax.models.backbone import block_name
from recurrax.probes import anatomy, arguments
from recurrax.probes.recording import record
from recurrax.types import Array, ArrayLike, Params, PyTree, Reset


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A mixer of a model, its parameters and its inputs."""

    name: str
    """Index of the block from the bottom, and type of the mixer, such as "3_gla"."""
    config: MixerConfig
    depth: Depth
    params: Params
    x: Array
    """Input of the mixer (B, T, D): the residual stream, normed if the block has a norm before the mixer."""
    shared: Array | None
    """Value residual that a layer below provides; None if the mixer does not use it."""


def given(model: nn.Module, params: PyTree, inputs: ArrayLike, *, reset: Reset | None = None) -> list[Given]:
    """Return every mixer of the model, from the bottom, with its inputs when the model is applied to `inputs`.

    Raises:
      ValueError: `model`, `params` or `inputs` do not fit, as in `record`; sequences of a single token.
    """
    arguments.check(model, params, inputs)
    if inputs.shape[1] < 2:
        raise ValueError(f"there must be a sequence, of 2 tokens at least, got shape {inputs.shape}")
    # The residual stream is computed in float32 at most; float64 parameters, for more precision, are for the mixers.
    narrow = jax.tree.map(lambda p: p.astype(jnp.float32) if p.dtype == jnp.float64 else p, params)
    shared = ["*/mixer/value_residual"] if model.config.layout.shares else []
    found = record(model, narrow, inputs, ["*/mixer/input", *shared], reset=reset)
    mixers = []
    for place in anatomy.places(model.config):
        own = params["params"]
        for key in (*place.path, "mixer"):
            own = own[key]
        if place.repeat is not None:
            own = jax.tree.map(lambda leaf, repeat=place.repeat: leaf[repeat], own)
        x, shared = (found.get(f"{place.number}/mixer/{name}") for name in ("input", "value_residual"))
        depth = Depth(place.number, model.config.num_layers)
        name = block_name(place.number, place.block)
        mixers.append(Given(name, place.block.mixer, depth, own, x, shared))
    return mixers
