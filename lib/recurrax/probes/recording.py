"""Record and replace arrays within a model while it is applied, at the sites that `recurrax.probes.anatomy` lists.

    found = record(model, params, tokens, ["*/stream_after", "3/mixer/state/*"])
    logits, state = intervene(model, params, tokens, {"3/mixer/output": jnp.zeros_like})

Names are patterns of `fnmatch`, whose * also matches "/". Both functions compile the model as `jax.jit(model.apply)`
does, and can be called within jit, vmap and differentiated functions. The depth scan stays a scan: an array of a
repeated block is stacked over the repeats, of which those that are asked for are returned; a function for some of the
repeats runs in those alone. The model's program without a probe does not change.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recurrax.probes import anatomy, arguments
from recurrax.sites import COLLECTION, Probe, probing
from recurrax.types import Array, ArrayLike, PyTree, Reset, State

Replacement = Callable[[Any], Any]
"""A function of one array; its result has the same shape and dtype."""


def record(
    model: nn.Module,
    params: PyTree,
    inputs: ArrayLike,
    names: str | Iterable[str],
    *,
    functions: Mapping[str, Replacement] | None = None,
    reset: Reset | None = None,
    state: State | None = None,
) -> dict[str, Array]:
    """Return the arrays of these names while the model is applied to `inputs`, from the bottom.

    Args:
      model: a LanguageModel, Classifier or Regressor.
      params: the parameters, as `model.init` makes them.
      inputs: tokens (B, T), or vectors (B, T, F) where the model reads those.
      names: names or patterns of sites; `names(model)` lists them.
      functions: interventions, as in `intervene`, under which the model is applied.
      reset: True where a document starts.
      state: the state to continue from.

    Raises:
      ValueError: a name or pattern matches no site; `model`, `params` or `inputs` do not fit; as `intervene`.
    """
    arguments.check(model, params, inputs)
    found = anatomy.find_sites(model, params, inputs, state, reset)
    chosen = anatomy.select(found, [names] if isinstance(names, str) else names)
    take = tuple((name, found[name].key, found[name].repeat) for name in chosen)
    if functions:
        run = jax.jit(functools.partial(_apply, model, take, _replaced(model, found, functions)))
        _, arrays = run(params, inputs, state, reset)
    else:
        _, arrays = _record(model, take, params, inputs, state, reset)
    return {name: arrays[name] for name in chosen}


def apply_and_record(
    model: nn.Module,
    variables: PyTree,
    inputs: ArrayLike,
    names: Iterable[str] = (),
    *,
    reset: Reset | None = None,
    state: State | None = None,
    rngs: Mapping[str, Array] | None = None,
    mutable: Iterable[str] = (),
) -> tuple[tuple[Array, State], dict[str, Array], Mapping[str, PyTree]]:
    """Return what `model.apply` returns, the arrays of these names, and the collections that it changed.

    For losses: it is not compiled by itself, and gradients pass through the arrays. `rngs` and `mutable` are as in
    `model.apply`.

    Raises:
      ValueError: a name or pattern matches no site.
    """
    if not names:
        results = model.apply(variables, inputs, state, reset=reset, rngs=rngs, mutable=list(mutable))
        return results[0], {}, results[1]
    found = anatomy.find_sites(model, variables, inputs, state, reset)
    take = [(name, found[name].key, found[name].repeat) for name in anatomy.select(found, names)]
    with probing(Probe({key for _, key, _ in take}.__contains__)):
        results, collections = model.apply(
            variables, inputs, state, reset=reset, rngs=rngs, mutable=[*mutable, COLLECTION]
        )
    arrays = anatomy.recorded(collections)
    return (
        results,
        {name: arrays[key] if repeat is None else arrays[key][repeat] for name, key, repeat in take},
        collections,
    )


def intervene(
    model: nn.Module,
    params: PyTree,
    inputs: ArrayLike,
    functions: Mapping[str, Replacement],
    *,
    reset: Reset | None = None,
    state: State | None = None,
) -> tuple[Array, State]:
    """Return the model's outputs and state when arrays within it are replaced by functions of them.

    Everything after a replaced array is computed from the new one. A call with new functions compiles the model;
    within `jax.jit`, the whole is compiled once. Gradients pass through the functions and reach what they refer to:
    the gradient for an array is that for `delta` in `lambda x: x + delta`.

    Args:
      functions: by name or pattern, a function from the array to one of the same shape and dtype. It is applied to each
        matching array once; the functions of several patterns that match are applied in order.
      model, params, inputs, reset, state: as in `record`.

    Raises:
      ValueError: a name or pattern matches no site; a function's result has another shape or dtype; `model`, `params`
        or `inputs` do not fit.
    """
    arguments.check(model, params, inputs)
    found = anatomy.find_sites(model, params, inputs, state, reset)
    run = jax.jit(functools.partial(_apply, model, (), _replaced(model, found, functions)))
    return run(params, inputs, state, reset)[0]


def _apply(model, take, replaced, params, inputs, state, reset):
    """Return ((outputs, state), arrays), the arrays (name, key, repeat) of `take` by name."""
    keys = {key for _, key, _ in take}
    with probing(Probe(keys.__contains__, replaced)):
        results, collections = model.apply(params, inputs, state, reset=reset, mutable=[COLLECTION])
    arrays = anatomy.recorded(collections)
    return results, {name: arrays[key] if repeat is None else arrays[key][repeat] for name, key, repeat in take}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _record(model, take, *arguments):
    return _apply(model, take, {}, *arguments)


def _replaced(model, found, functions):
    """Return the functions (array, index of the block) -> array by the keys of their sites.

    Raises ValueError if one of them changes the shape or dtype of its array.
    """
    each: dict[str, dict[int | None, tuple]] = {}
    for pattern, function in functions.items():
        for name in anatomy.select(found, [pattern]):
            key, repeat, shape, _ = found[name]
            got = jax.eval_shape(function, shape)
            if not isinstance(got, jax.ShapeDtypeStruct) or (got.shape, got.dtype) != (shape.shape, shape.dtype):
                want = f"{name!r}, {shape.dtype} of shape {shape.shape}"
                raise ValueError(f"the function for {pattern!r} must return an array like {want}, got {got}")
            repeats = each.setdefault(key, {})
            repeats[repeat] = (*repeats.get(repeat, ()), function)
    return {key: _at_repeats(model.config.layout, repeats) for key, repeats in each.items()}


def _at_repeats(layout, repeats):
    """Return a function (array, index of the block) -> array that applies the functions of the block's repeat."""
    every = [repeats.get(r, ()) for r in ([None] if None in repeats else range(layout.repeats))]
    distinct = [functions for i, functions in enumerate(every) if functions not in every[:i]]
    branches = [functools.partial(_in_order, functions) for functions in distinct]
    if len(branches) == 1:
        return lambda x, index: branches[0](x)
    which = np.array([distinct.index(functions) for functions in every])

    def apply(x, index):
        repeat = (index - len(layout.first)).astype(jnp.int32) // len(layout.pattern)
        return jax.lax.switch(jnp.asarray(which)[repeat], branches, x)

    return apply


def _in_order(functions, x):
    for function in functions:
        x = jax.lax.convert_element_type(function(x), x.dtype)
    return x
