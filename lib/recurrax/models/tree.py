"""Provide the tree of a model's parameters: what each of them is, by its path, without making an array."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from recurrax.models.backbone import BackboneConfig
from recurrax.models.language_model import LanguageModel, LanguageModelConfig
from recurrax.models.readout import Classifier, ClassifierConfig, ReadoutConfig, Regressor, RegressorConfig
from recurrax.parameters import Parameter, flat, recording

MODELS = {LanguageModelConfig: LanguageModel, ClassifierConfig: Classifier, RegressorConfig: Regressor}


def parameters(model: BackboneConfig | nn.Module, *, input_dim: int | None = None) -> dict[str, Parameter]:
    """Return the declaration of every parameter by its path below "params", such as backbone/groups/0_gla/mixer/in_q.

    Layers that a scan over depth stacks have one entry with a leading axis "layers". `init` is None: values come from
    the model's own `init`.

    Args:
      model: a config of the library's, or any Linen module, called on tokens (B, T) or vectors (B, T, F), whose modules
        create all their parameters with `recurrax.parameters.declare`.
      input_dim: F; None: the model reads tokens.

    Raises:
      ValueError: a parameter that no table declares, or that has another shape than declared; input_dim is missing or
        given to a model of tokens; an unknown kind of config.
    """
    return dict(_traced(model, input_dim))


@functools.lru_cache(maxsize=64)
def _traced(model, input_dim):
    """Return the declarations, from one trace of `init`."""
    model = _module(model, input_dim)
    shape, dtype = ((1, 1), jnp.int32) if input_dim is None else ((1, 1, input_dim), jnp.float32)
    with recording() as declared:
        arrays = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))["params"]
    leaves = {path: leaf.shape for path, leaf in flat(arrays).items()}
    undeclared = sorted(leaves.keys() - declared.keys())
    if undeclared:
        raise ValueError(
            f"no table declares the parameters {', '.join(undeclared)}: create them with recurrax.parameters.declare"
        )
    return {path: _stacked(path, declared[path], shape) for path, shape in leaves.items()}


def _module(model, input_dim):
    """Return the module of a config. Raises ValueError for other kinds, or for inputs that it does not read."""
    config = getattr(model, "config", model)
    if isinstance(config, ReadoutConfig) and config.vocab_size is None and input_dim is None:
        raise ValueError("this model reads vectors (B, T, F); say their width with input_dim=F")
    if isinstance(config, BackboneConfig) and getattr(config, "vocab_size", None) is not None and input_dim is not None:
        raise ValueError(f"this model reads tokens; input_dim must be None, got {input_dim}")
    return model if isinstance(model, nn.Module) else build(model)


def build(config: BackboneConfig) -> nn.Module:
    """Return the model of a config: a LanguageModel, a Classifier or a Regressor.

    Raises:
      ValueError: an unknown kind of config.
    """
    for kind, module in MODELS.items():
        if isinstance(config, kind):
            return module(config)
    choices = ", ".join(kind.__name__ for kind in MODELS)
    raise ValueError(f"model must be a Linen module or one of {choices}, got {config!r}")


def _stacked(path, parameter, shape):
    """Return the parameter with an axis "layers" for each dimension that a scan has put before its own."""
    more = len(shape) - len(parameter.shape)
    if more < 0 or shape[more:] != parameter.shape:
        raise ValueError(f"{path} is declared with shape {parameter.shape}, but the model creates {shape}")
    return dataclasses.replace(parameter, init=None, shape=shape, axes=("layers",) * more + parameter.axes)
