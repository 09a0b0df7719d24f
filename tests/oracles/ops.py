"""`diagonal_scan` and `causal_conv1d`, step by step. Those of matrix states are in eval/oracles/."""

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


def selective_scan(x, dt, a, b, c, state, reset=None):
    """h_t = e^{dt_t a} h_{t-1} + (dt_t x_t) b_t^T, y_t = h_t c_t: y, the last h, and the h before each step."""
    x, dt, a, b, c, h = (wide(array) for array in (x, dt, a, b, c, state))
    y, before = np.zeros(x.shape), np.zeros((*x.shape, a.shape[1]))
    for t in range(x.shape[1]):
        if reset is not None:
            h = np.where(reset[:, t, None, None], 0, h)
        before[:, t] = h
        h = np.exp(dt[:, t, :, None] * a) * h + (dt * x)[:, t, :, None] * b[:, t, None, :]
        y[:, t] = np.einsum("ben,bn->be", h, c[:, t])
    return y, h, before


def selective_scan_gradients(x, dt, a, b, c, state, g, g_last, reset=None):
    """Cotangents (dx, ddt, da, db, dc, dstate) of y and the last h weighted by g and g_last, by hand."""
    _, _, before = selective_scan(x, dt, a, b, c, state, reset)
    x, dt, a, b, c, g, d = (wide(array) for array in (x, dt, a, b, c, g, g_last))
    dx, ddt, da, db, dc = (np.zeros(array.shape) for array in (x, dt, a, b, c))
    for t in reversed(range(x.shape[1])):
        decay = np.exp(dt[:, t, :, None] * a)
        h = decay * before[:, t] + (dt * x)[:, t, :, None] * b[:, t, None, :]
        d = d + g[:, t, :, None] * c[:, t, None, :]
        dc[:, t] = np.einsum("be,ben->bn", g[:, t], h)
        db[:, t] = np.einsum("ben,be->bn", d, (dt * x)[:, t])
        drive = np.einsum("ben,bn->be", d, b[:, t])
        dlog = d * before[:, t] * decay
        dx[:, t] = drive * dt[:, t]
        ddt[:, t] = drive * x[:, t] + (dlog * a).sum(-1)
        da += (dlog * dt[:, t, :, None]).sum(0)
        d = decay * d
        if reset is not None:
            d = np.where(reset[:, t, None, None], 0, d)
    return dx, ddt, da, db, dc, d
