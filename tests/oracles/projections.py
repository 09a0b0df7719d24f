"""Projections."""

import numpy as np

from oracles.common import ACTIVATIONS, sigmoid, wide


def mlp(params, x, config):
    """act(x W_in + b) W_out."""
    p = {name: wide(value) for name, value in params.items()}
    return ACTIVATIONS[config.activation](wide(x) @ p["in_kernel"] + p["bias"]) @ p["out_kernel"]


def glu(params, x, config):
    """(act(x W_gate + b) * (x W_in + b')) W_out + b''."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    gate = ACTIVATIONS[config.activation](x @ p["in_gate"] + p.get("bias_gate", 0))
    return (gate * (x @ p["in_kernel"] + p.get("bias_in", 0))) @ p["out_kernel"] + p.get("bias_out", 0)


def mixture_of_experts(params, x, config):
    """Token by token and expert by expert."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    act = ACTIVATIONS[config.activation]

    def expert(token, gate, kernel, out):
        return (act(token @ gate) * (token @ kernel)) @ out

    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:-1]):
        token = x[at]
        logits = token @ p["router_kernel"]
        scores = np.exp(logits) / np.exp(logits).sum() if config.scores == "softmax" else sigmoid(logits)
        ranked = scores + p.get("choice_bias", 0)
        groups = np.split(np.arange(config.num_experts), config.num_groups)
        by_group = sorted(groups, key=lambda group, ranked=ranked: -np.sort(ranked[group])[-2:].sum())
        allowed = np.concatenate(by_group[: config.groups_per_token])
        chosen = allowed[np.argsort(-ranked[allowed])][: config.experts_per_token]
        weights = scores[chosen] / (scores[chosen].sum() if config.normalize else 1)
        for weight, i in zip(weights, chosen, strict=True):
            own = (p[name][i] for name in ("in_gates", "in_kernels", "out_kernels"))
            y[at] += config.scale * weight * expert(token, *own)
        if config.shared_hidden is not None:
            shared = expert(token, p["in_shared_gate"], p["in_shared_kernel"], p["out_shared_kernel"])
            y[at] += shared * (sigmoid(token @ p["shared_gate_kernel"]) if config.shared_gate else 1)
    return y
