"""`diagonal_scan` and `causal_conv1d`, step by step. Those of matrix states are in eval/oracles.py."""

import numpy as np

from oracles.common import wide


def diagonal_scan(a, x, h0=None, reset=None, reverse=False):
    """h_t = a_t h_{t-1} + x_t: (all states, last state)."""
    a, x = wide(a), wide(x)
    a = np.broadcast_to(a, x.shape)
    dtype = np.result_type(a, x) if h0 is None else np.result_type(a, x, wide(h0))
    h = np.zeros(x[:, 0].shape, dtype) if h0 is None else wide(h0).astype(dtype)
    out = np.zeros(x.shape, dtype)
    steps = range(x.shape[1])
    for t in reversed(steps) if reverse else steps:
        if reset is not None:
            h = np.where(np.asarray(reset)[:, t].reshape(-1, *[1] * (x.ndim - 2)), 0, h)
        h = a[:, t] * h + x[:, t]
        out[:, t] = h
    return out, h


def diagonal_scan_gradients(a, x, h0, g, g_last, reset=None, reverse=False):
    """Cotangents (da, dx, dh0) of h and h_last weighted by g and g_last, by hand.

    For complex numbers these are JAX's cotangents: linear transposes, nothing conjugated.
    """
    a_full, x, g = np.broadcast_to(wide(a), np.shape(x)), wide(x), wide(g)
    h, _ = diagonal_scan(a, x, h0, reset, reverse)
    length = x.shape[1]
    order = list(range(length))[::-1] if reverse else list(range(length))
    keep = np.ones(x.shape[:2]) if reset is None else 1.0 - np.asarray(reset)
    keep = keep.reshape(*keep.shape, *[1] * (x.ndim - 2))
    da, dx = np.zeros(x.shape, h.dtype), np.zeros(x.shape, h.dtype)
    d = wide(g_last).astype(h.dtype)
    for i in reversed(range(length)):
        t = order[i]
        d = d + g[:, t]
        dx[:, t] = d
        before = wide(h0) if i == 0 else h[:, order[i - 1]]
        da[:, t] = keep[:, t] * d * before
        d = keep[:, t] * a_full[:, t] * d
    if np.ndim(a) == x.ndim - 2:
        da = da.sum((0, 1))
    return da, dx, d


def causal_conv1d(x, kernel, bias=None, state=None, reset=None):
    """y_t = bias + sum_i kernel_i x_{t-(W-1)+i} inside the document, and the last W-1 inputs."""
    x, kernel = wide(x), wide(kernel)
    batch, length, dim = x.shape
    width = kernel.shape[0]
    y = np.zeros(x.shape)
    final = np.zeros((batch, width - 1, dim))
    for b in range(batch):
        history = [np.zeros(dim)] * (width - 1) if state is None else list(wide(state)[b])
        for t in range(length):
            if reset is not None and reset[b, t]:
                history = [np.zeros(dim)] * (width - 1)
            window = [*history, x[b, t]]
            y[b, t] = sum(kernel[i] * window[i] for i in range(width)) + (0 if bias is None else wide(bias))
            history = window[1:]
        final[b] = np.reshape(history, (width - 1, dim))
    return y, final
