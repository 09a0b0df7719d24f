"""Define the base classes of token mixers, each of a frozen config, a pure function and a Linen module of parameters.

    y, state = mixer(params, x, state, config, reset=reset)

The function contains the whole formula. It serves the whole sequence, the next chunk and the next token alike: calling
it on x[:, :t] and then, with the state it returned, on x[:, t:] equals calling it on x.
"""

import dataclasses

import flax.linen as nn

from recurrax.layers import Layer, LayerConfig

fan_in = nn.initializers.lecun_normal()
"""Variance 1 / D for a matrix (D, E): the initializer of projections of the residual stream."""
small = nn.initializers.variance_scaling(1 / 32, "fan_avg", "uniform")
"""Xavier initialisation with a gain of 2^-2.5, which the authors of GLA use for queries, keys and values. A norm
follows: its epsilon then damps the outputs of the first tokens, whose gradients would have heavy tails."""
after_norm = nn.initializers.variance_scaling(1 / 8, "fan_in", "truncated_normal")
"""Variance 1 / 8 D: for a matrix applied to normalised heads. It gives a layer outputs as large as those of softmax
attention, whose averages are smaller than the averaged values."""
zeros = nn.initializers.zeros
ones = nn.initializers.ones


@dataclasses.dataclass(frozen=True)
class MixerConfig(LayerConfig):
    """Hyperparameters of one published layer, checked at construction."""


class Mixer(Layer):
    """Declare a mixer's parameters and call its function.

    Each subclass sets `function` and defines `parameters`.
    """

    config: MixerConfig
