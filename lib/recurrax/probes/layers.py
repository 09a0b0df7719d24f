"""The mixers of a model, one by one, with what each is given: what all probes start from."""

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
    """The number of its block from below, and which mixer it is: "3_gla"."""
    config: MixerConfig
    params: Params
    x: Array
    """(B, T, D): the residual stream, normed where the block says so."""
    shared: Array | None
    """What a layer below hands on."""


def given(model: nn.Module, params: PyTree, inputs: ArrayLike, *, reset: Reset | None = None) -> list[Given]:
    """Every mixer of the model from below, and what it is given when the model reads these inputs.

    Raises:
      ValueError: no LanguageModel, Classifier or Regressor, parameters that are not this model's, inputs that are not
        sequences of what it reads.
    """
    if not isinstance(model, MODELS):
        choices = ", ".join(kind.__name__ for kind in MODELS)
        raise ValueError(f"model must be one of {choices}, got {model!r}")
    inputs = _inputs(model, inputs)
    _check_params(model, params, inputs)
    # The stream is never wider than float32; parameters that are, in a probe that wants more digits, are for mixers.
    narrow = jax.tree.map(lambda p: p.astype(jnp.float32) if p.dtype == jnp.float64 else p, params)
    found = _capture(model, narrow, inputs, reset)["backbone"]
    layout, mixers = model.config.layout, []

    def add(group, i, block, index):
        """The block's mixer; of several under a scan the one of this index."""
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
    """As an array, checked."""
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
    """Lists what differs."""
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
