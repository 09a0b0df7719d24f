"""Provides start states: a frozen model takes on another source by the states from which documents start.

    h_0 = s instead of h_0 = 0,    one s per layer (arXiv 2604.01168)

Layers that cache tokens, such as attention, have no state of this kind and start with an empty cache.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax.adapters.base import Adapter, Materialised
from recurrax.mixers.cache import Cached
from recurrax.models import states
from recurrax.models.backbone import BackboneConfig
from recurrax.parameters import Parameter, flat


@dataclasses.dataclass(frozen=True)
class InitialState(Adapter):
    """The state of each layer before a document's first token. A complex state is a pair of real numbers."""

    @property
    def starts(self):
        return True

    def declare(self, config, declared):
        del declared
        table = {}
        for path, leaf, repeats in _leaves(config):
            pair = (2,) if jnp.iscomplexobj(leaf) else ()
            shape, stacked = (*leaf.shape, *pair), ("layers",) * repeats
            axes = (*stacked, *(None,) * (len(shape) - len(stacked)))
            table[path] = Parameter(nn.initializers.zeros_init(), shape, axes, "recurrence", decayed=False)
        if not table:
            raise ValueError("adapter InitialState: no layer of this model has a state; attention has a cache")
        return table

    def materialise(self, config, params, own):
        own = flat(own)

        def leaf(path, given):
            if path not in own:
                return given
            value = own[path]
            if jnp.iscomplexobj(given):
                value = jax.lax.complex(value[..., 0], value[..., 1])
            axis = states.batch_axis(path)
            return jnp.expand_dims(value, axis).astype(given.dtype)

        return Materialised(params, states.map_with_path(leaf, config, states.first(config)))


def _leaves(config: BackboneConfig):
    """Yield path, shape and dtype without rows, and whether depth is stacked, of every leaf but caches."""
    start = jax.eval_shape(lambda: states.first(config))
    for path, layer, leaf in states.leaves(config, start):
        if isinstance(layer, Cached) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        axis = states.batch_axis(path)
        shape = leaf.shape[:axis] + leaf.shape[axis + 1 :]
        yield path, jax.ShapeDtypeStruct(shape, leaf.dtype), axis == 1
