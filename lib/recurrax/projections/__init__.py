"""Position-wise nonlinear projections: what decodes a recurrence's state."""

from recurrax.projections.base import ACTIVATIONS, Projection, ProjectionConfig, relu_squared
from recurrax.projections.glu import GLU, GLULayer, glu
from recurrax.projections.mlp import MLP, MLPLayer, mlp

__all__ = [
    "ACTIVATIONS",
    "GLU",
    "GLULayer",
    "MLP",
    "MLPLayer",
    "Projection",
    "ProjectionConfig",
    "glu",
    "mlp",
    "relu_squared",
]
