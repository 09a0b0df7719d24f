"""Provide mixers that read the sequence backwards, or both ways, made of any mixer.

    Reversed(f)         y_t = f(x_T, ..., x_t)
    Bidirectional(f)    y_t = f(x_1, ..., x_t) + f'(x_T, ..., x_t)          f' is f with parameters of its own

Both directions include step t, and their outputs are added, as in Vision Mamba (Zhu et al., 2024, arXiv 2401.09417).
Documents that `reset` separates are read backwards one by one. Neither layer is causal: a Classifier or a Regressor
takes them, a LanguageModel does not. They cannot continue a sequence, so their state is empty.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool

from recurrax.layers import Capabilities, Layer, LayerConfig
from recurrax.mixers.base import MixerConfig
from recurrax.types import Reset


@dataclasses.dataclass(frozen=True)
class Reversed(MixerConfig):
    """A mixer that reads each document from its end to its start."""

    mixer: LayerConfig
    """The mixer that runs on the reversed sequence."""

    def __post_init__(self):
        if not isinstance(self.mixer, MixerConfig):
            raise ValueError(f"mixer must be a mixer config, such as RGLRU(), got {self.mixer!r}")
        if self.mixer.uses_value_residual:
            raise ValueError(f"{self.mixer} uses a value residual, which {type(self).__name__} does not pass on")

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the mixer, but neither causal nor streaming, and without implicit attention."""
        return self.mixer.capabilities._replace(causal=False, streams=False, linear_in_values=False)

    @property
    def context(self):
        return self.mixer.context

    def with_context(self, context):
        return dataclasses.replace(self, mixer=self.mixer.with_context(context))

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.mixer.layer(dim, dtype)  # raises if the mixer cannot have this dim
        return ReversedLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return {}


@dataclasses.dataclass(frozen=True)
class Bidirectional(Reversed):
    """The sum of a mixer that reads forwards and of one with its own parameters that reads backwards."""

    def layer(self, dim, dtype=jnp.float32, name=None):
        self.mixer.layer(dim, dtype)
        return BidirectionalLayer(self, dim, dtype, name=name)


class ReversedLayer(Layer):
    """Parameters of the mixer, under "backward"."""

    config: Reversed

    def parameters(self, depth):
        return {}  # the mixer declares its own

    def run(self, params, x, state, *, reset, depth, shared):
        del params, state, shared
        layer = self.config.mixer.layer(self.dim, self.dtype, name="backward")
        return jnp.flip(layer(jnp.flip(x, 1), reset=reversed_starts(reset), depth=depth)[0], 1), {}


class BidirectionalLayer(ReversedLayer):
    """Parameters of the two mixers, under "forward" and "backward"."""

    def run(self, params, x, state, *, reset, depth, shared):
        forward = self.config.mixer.layer(self.dim, self.dtype, name="forward")
        y, _ = super().run(params, x, state, reset=reset, depth=depth, shared=shared)
        return y + forward(x, reset=reset, depth=depth)[0], {}


def reversed_starts(reset: Reset | None) -> Bool[Array, "B T"] | None:
    """Return the starts of documents in the reversed sequence: their last tokens, apart from the sequence's own."""
    if reset is None:
        return None
    return jnp.flip(jnp.pad(reset[:, 1:], ((0, 0), (0, 1))), 1)
