"""Projections."""

from oracles.common import ACTIVATIONS, wide


def mlp(params, x, config):
    """act(x W_in + b) W_out."""
    p = {name: wide(value) for name, value in params.items()}
    return ACTIVATIONS[config.activation](wide(x) @ p["in_kernel"] + p["bias"]) @ p["out_kernel"]


def glu(params, x, config):
    """(act(x W_gate) * x W_in) W_out."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    return (ACTIVATIONS[config.activation](x @ p["in_gate"]) * (x @ p["in_kernel"])) @ p["out_kernel"]
