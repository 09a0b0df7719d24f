"""Check what all probes take: a model, its parameters and sequences of the kind that it reads."""

import flax.linen as nn
import jax
import numpy as np

from recurrax import checks
from recurrax.models import Classifier, LanguageModel, Regressor
from recurrax.types import ArrayLike, PyTree

MODELS = (LanguageModel, Classifier, Regressor)


def check(model: nn.Module, params: PyTree, inputs: ArrayLike) -> None:
    """Raise ValueError unless `params` and `inputs` are those of a LanguageModel, Classifier or Regressor."""
    check_model(model)
    _check_inputs(model, inputs)
    _check_params(model, params, inputs)


def check_model(model: nn.Module) -> None:
    """Raise ValueError if the model is not one of MODELS."""
    if not isinstance(model, MODELS):
        choices = ", ".join(kind.__name__ for kind in MODELS)
        raise ValueError(f"model must be one of {choices}, got {model!r}")


def init_shapes(model: nn.Module, inputs: ArrayLike | jax.ShapeDtypeStruct) -> PyTree:
    """Return the shapes and dtypes of `model.init`, without computing them."""
    return _init.eval_shape(model, jax.random.key(0), inputs)


# Only traced, never run: jit's cache keeps the trace for the next call.
_init = jax.jit(lambda model, key, inputs: model.init(key, inputs), static_argnums=0)


def _check_inputs(model, inputs):
    """Raise ValueError if the inputs are not sequences of the kind that the model reads."""
    vocabulary = model.config.vocab_size
    if vocabulary is None:
        if inputs.ndim != 3 or not np.issubdtype(inputs.dtype, np.floating):
            raise ValueError(f"inputs must be vectors (B, T, F), got {inputs.dtype} of shape {inputs.shape}")
    elif inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.integer):
        raise ValueError(f"tokens must be integers (B, T), got {inputs.dtype} of shape {inputs.shape}")
    checks.not_empty("inputs", inputs)
    if vocabulary is not None:
        checks.tokens(inputs, vocabulary)


def _check_params(model, params, inputs):
    """Raise ValueError with a list of the parameters whose shapes differ from the model's."""
    got, want = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, init_shapes(model, inputs))
    )
    lines = [
        f"  {path}: {got.get(path, 'missing')}, should be {want.get(path, 'absent')}"
        for path in sorted(got.keys() | want.keys())
        if got.get(path) != want.get(path)
    ]
    if lines:
        raise ValueError("params are not this model's, as model.init makes them:\n" + "\n".join(lines))
