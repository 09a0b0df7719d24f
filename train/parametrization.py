"""Provides parametrizations: how initial values and learning rates depend on the width and depth of a model.

`MuP` keeps the best learning rate while a model grows (Yang et al., arXiv 2203.03466; over depth, arXiv 2310.02244).
With r = width / base width of the dimension that a matrix reads, and l = layers / base layers:

    parameter                      initial values    learning rate
    matrices within blocks         1                 1 / r
    the output head                r^-1/2            1 / r
    the table of tokens            1                 r^-1/2: it enters the model times sqrt(width)
    in blocks, in addition         1                 l^-1/2
    matrices that end a branch     l^-1/2            l^-1/2, in addition to both

beside initial values of variance 1 / fan-in. At the base width and depth it is the standard parametrization.
"""

import dataclasses
from collections.abc import Mapping

from recurrax import checks
from recurrax.models import BackboneConfig, LanguageModelConfig, parameters
from recurrax.models.backbone import STACKS
from recurrax.parameters import Parameter

__all__ = ["MuP", "Parametrization", "Standard"]

READ = ("embed", "heads", "hidden", "inner", "latent", "block")
"""Axes of widths that a matrix reads, the last but one of its own."""
BLOCKS = tuple(f"backbone/{stack}/" for stack in STACKS)
"""Where the parameters of blocks are."""


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors of one parameter."""

    init: float = 1.0
    """Factor of the initial values."""
    learning_rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """Factors of parameters by path."""

    def factors(self, model: BackboneConfig, declared: Mapping[str, Parameter]) -> dict[str, Factors]:
        """Return the factors that are not 1."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Standard(Parametrization):
    """Initial values of variance 1 / fan-in, and one learning rate."""

    def factors(self, model, declared):
        del model, declared
        return {}


@dataclasses.dataclass(frozen=True)
class MuP(Parametrization):
    """Maximal update parametrization, for optimizers whose steps do not depend on the size of gradients."""

    base_dim: int
    """Width at which it is the standard parametrization."""
    base_layers: int | None = None
    """Depth at which it is the standard one; None: that of the model."""

    def __post_init__(self):
        checks.positive(self, "base_dim", "base_layers")

    def factors(self, model, declared):
        """Return the factors that are not 1.

        Raises:
          ValueError: the model is not a language model with a head of its own, or cannot have the base width.
        """
        if not isinstance(model, LanguageModelConfig) or model.tied_head:
            raise ValueError(
                "parametrization MuP needs a language model with model.tied_head False: a table of tokens and an "
                "output head have different factors"
            )
        if model.embedding_scale is not None:
            raise ValueError(f"parametrization MuP needs model.embedding_scale None, got {model.embedding_scale}")
        base = parameters(dataclasses.replace(model, dim=self.base_dim))
        depth = model.num_layers / (self.base_layers or model.num_layers)
        found = {path: _factors(path, each, base[path], depth) for path, each in declared.items() if path in base}
        return {path: each for path, each in found.items() if each != Factors()}


def _factors(path: str, parameter: Parameter, base: Parameter, depth: float) -> Factors:
    init = rate = 1.0
    if parameter.role == "embedding":
        rate = (parameter.shape[-1] / base.shape[-1]) ** -0.5
    elif parameter.role != "vector" and len(parameter.shape) > 1 and parameter.axes[-2] in READ:
        width = parameter.shape[-2] / base.shape[-2]
        rate /= width
        if parameter.role == "head":
            init = width**-0.5
    if path.startswith(BLOCKS):
        rate *= depth**-0.5
        if parameter.role == "matrix" and parameter.axes[-1] == "embed":
            init, rate = init * depth**-0.5, rate * depth**-0.5
    return Factors(init, rate)
