"""Provides `given`, which returns every mixer of a model with its parameters and inputs, the basis of all probes."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recurrax import checks
from recurrax.mixers import MixerConfig
from recurrax.models import Classifier, LanguageModel, Regressor
from recurrax.models.backbone import block_name
from recurrax.types import Array, ArrayLike, Params, PyTree, Reset

MODELS = (LanguageModel, Classifier, Regressor)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A mixer of a model, its parameters and its inputs."""

    name: str
    """Index of the block from the bottom, and type of the mixer, such as "3_gla"."""
    config: MixerConfig
    params: Params
    x: Array
    """Input of the mixer (B, T, D): the residual stream, normed if the block has a norm before the mixer."""
    shared: Array | None
    """Value residual that a layer below provides; None if there is none."""


def given(model: nn.Module, params: PyTree, inputs: ArrayLike, *, reset: Reset | None = None) -> list[Given]:
    """Return every mixer of the model, from the bottom, with its inputs when the model is applied to `inputs`.

    Raises:
      ValueError: `model` is not a LanguageModel, Classifier or Regressor; `params` are not this model's; `inputs` are
        not token or vector sequences of the kind that the model reads.
    """
    if not isinstance(model, MODELS):
        choices = ", ".join(kind.__name__ for kind in MODELS)
        raise ValueError(f"model must be one of {choices}, got {model!r}")
    inputs = _inputs(model, inputs)
    _check_params(model, params, inputs)
    # The residual stream is computed in float32 at most; float64 parameters, for more precision, are for the mixers.
    narrow = jax.tree.map(lambda p: p.astype(jnp.float32) if p.dtype == jnp.float64 else p, params)
    found = _capture(model, narrow, inputs, reset)["backbone"]
    layout, mixers = model.config.layout, []

    def add(group, i, block, index):
        """Append the block's mixer; `index` selects one of the layers that a scan stacks."""
        take = functools.partial(jax.tree.map, lambda leaf: leaf if index is None else leaf[index])
        block_params, (of_call,) = (
            params["params"]["backbone"][group],
            found[group][block_name(i, block)]["mixer"]["given"],
        )
        x, shared = take(of_call)
        own = take(block_params[block_name(i, block)]["mixer"])
        name = f"{len(mixers)}_{type(block.mixer).__name__.lower()}"
        mixers.append(Given(name, block.mixer, own, x, shared))

    for i, block in enumerate(layout.first):
        add("first", i, block, None)
    for index in range(layout.repeats):
        for i, block in enumerate(layout.pattern):
            add("groups", i, block, index)
    for i, block in enumerate(layout.rest):
        add("rest", i, block, None)
    return mixers


@functools.partial(jax.jit, static_argnames="model")
def _capture(model, params, inputs, reset):
    return model.apply(params, inputs, reset=reset, mutable=["intermediates"])[1]["intermediates"]


def _inputs(model, inputs):
    """Return the inputs as an array. Raises ValueError if they are not sequences of the kind that the model reads."""
    inputs, vocabulary = np.asarray(inputs), model.config.vocab_size
    if vocabulary is None:
        if inputs.ndim != 3 or not np.issubdtype(inputs.dtype, np.floating):
            raise ValueError(f"inputs must be vectors (B, T, F), got {inputs.dtype} of shape {inputs.shape}")
    elif inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.integer):
        raise ValueError(f"tokens must be integers (B, T), got {inputs.dtype} of shape {inputs.shape}")
    if inputs.shape[0] < 1 or inputs.shape[1] < 2:
        raise ValueError(f"there must be a sequence, of 2 tokens at least, got shape {inputs.shape}")
    if vocabulary is not None:
        checks.tokens(inputs, vocabulary)
    return inputs


def _check_params(model, params, inputs):
    """Raise ValueError with a list of the parameters whose shapes differ from the model's."""
    want = jax.eval_shape(model.init, jax.random.key(0), inputs)
    got, want = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, want)
    )
    lines = [
        f"  {path}: {got.get(path, 'missing')}, should be {want.get(path, 'absent')}"
        for path in sorted(got.keys() | want.keys())
        if got.get(path) != want.get(path)
    ]
    if lines:
        raise ValueError("params are not this model's, as model.init makes them:\n" + "\n".join(lines))
