"""Position-wise nonlinear projections: what decodes a recurrence's state."""

from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig, relu_squared
from recurrax.projections.layers.channel_mix import ChannelMix, ChannelMixLayer, channel_mix
from recurrax.projections.layers.glu import GLU, GLULayer, glu
from recurrax.projections.layers.mixture import MixtureOfExperts, MixtureOfExpertsLayer, mixture_of_experts
from recurrax.projections.layers.mlp import MLP, MLPLayer, mlp

__all__ = [
    "ACTIVATIONS",
    "GLU",
    "MLP",
    "ChannelMix",
    "ChannelMixLayer",
    "GLULayer",
    "MLPLayer",
    "MixtureOfExperts",
    "MixtureOfExpertsLayer",
    "Projection",
    "ProjectionConfig",
    "channel_mix",
    "glu",
    "mixture_of_experts",
    "mlp",
    "relu_squared",
]
