"""Position-wise nonlinear projections: what decodes a recurrence's state."""

from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig, relu_squared
from recurrax.projections.channel_mix import ChannelMix, ChannelMixLayer, channel_mix
from recurrax.projections.glu import GLU, GLULayer, glu
from recurrax.projections.mlp import MLP, MLPLayer, mlp

__all__ = [
    "ACTIVATIONS",
    "GLU",
    "MLP",
    "ChannelMix",
    "ChannelMixLayer",
    "GLULayer",
    "MLPLayer",
    "Projection",
    "ProjectionConfig",
    "channel_mix",
    "glu",
    "mlp",
    "relu_squared",
]
