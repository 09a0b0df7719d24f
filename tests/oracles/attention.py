"""Softmax attention."""

import numpy as np

from oracles.common import each_document


@each_document
def attention(p, x, config):
    """softmax over the tokens of the same document that the window reaches; rotary turns as complex multiplication."""
    length, heads = len(x), config.num_heads
    head_dim = p["in_q"].shape[1] // heads
    share = heads // (p["in_k"].shape[1] // head_dim)
    window = length if config.window is None else config.window
    turn = np.exp(1j * config.rotary_base ** (-2 * np.arange(head_dim // 2) / head_dim))

    def rotated(vector, position):
        """Channels (i, i + K/2) as one complex number, turned `position` times."""
        pair = (vector[: head_dim // 2] + 1j * vector[head_dim // 2 :]) * turn**position
        return np.concatenate([pair.real, pair.imag])

    y = np.zeros(x.shape)
    for t in range(length):
        visible = range(max(0, t - window + 1), t + 1)
        out = []
        for h in range(heads):
            own, shared = slice(h * head_dim, (h + 1) * head_dim), h // share * head_dim
            shared = slice(shared, shared + head_dim)
            q = rotated((x[t] @ p["in_q"])[own], t)
            scores = [q @ rotated((x[s] @ p["in_k"])[shared], s) / np.sqrt(head_dim) for s in visible]
            weights = np.exp(scores - np.max(scores))
            values = [(x[s] @ p["in_v"])[shared] for s in visible]
            out.append(weights @ np.array(values) / weights.sum())
        y[t] = np.concatenate(out) @ p["out_kernel"]
    return y
