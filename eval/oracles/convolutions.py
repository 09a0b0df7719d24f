"""Compute the causal convolutions and their gradients, tap by tap."""

import numpy as np


def causal_conv1d(inputs, cotangents=None):
    """y_t = bias + sum_i kernel_i x_{t-(W-1)+i} over the taps within the document."""
    x, kernel, bias, state, reset = (inputs.get(n) for n in ("x", "kernel", "bias", "state", "reset"))
    kernel = np.asarray(kernel, np.float64)
    past, length = len(kernel) - 1, np.shape(x)[1]
    padded = _padded(x, state, past)
    # The number of the document of each input, those of the state included.
    document = np.zeros(padded.shape[:2], int)
    if reset is not None:
        document[:, past:] = np.cumsum(reset, axis=1)
    same = [(document[:, i : i + length] == document[:, past:])[..., None] for i in range(past + 1)]
    inside = (document[:, length:] == document[:, -1:])[..., None]
    y = sum(np.where(same[i], padded[:, i : i + length] * kernel[i], 0) for i in range(past + 1))
    y = y if bias is None else y + np.asarray(bias, np.float64)
    last = np.where(inside, padded[:, length:], 0)
    if cotangents is None:
        return y, last, {}

    g, d_last = (np.asarray(c, np.float64) for c in cotangents)
    d_padded, d_kernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    d_padded[:, length:] = np.where(inside, d_last, 0)
    for i in range(past + 1):
        reached = np.where(same[i], g, 0)
        d_padded[:, i : i + length] += reached * kernel[i]
        d_kernel[i] = (reached * padded[:, i : i + length]).sum((0, 1))
    gradients = {"x": d_padded[:, past:], "kernel": d_kernel, "bias": g.sum((0, 1)), "state": d_padded[:, :past]}
    return y, last, {n: gradient for n, gradient in gradients.items() if inputs.get(n) is not None}


def long_convolution(inputs, cotangents=None):
    """y_t = sum_i kernel_i x_{t-i}, for kernels (D | 1, W) or (D | 1, M, W)."""
    x, kernel, state = (inputs.get(n) for n in ("x", "kernel", "state"))
    kernel = np.asarray(kernel, np.float64)
    taps = kernel if kernel.ndim == 3 else kernel[:, None]
    past, length = kernel.shape[-1] - 1, np.shape(x)[1]
    padded = _padded(x, state, past)

    def earlier(i):
        return padded[:, past - i : past - i + length]

    y = sum(earlier(i)[..., None] * taps[..., i] for i in range(past + 1))
    last = padded[:, length:]
    y = y if kernel.ndim == 3 else y[..., 0]
    if cotangents is None:
        return y, last, {}

    g, d_last = (np.asarray(c, np.float64) for c in cotangents)
    g = g if kernel.ndim == 3 else g[..., None]
    d_padded, d_taps = np.zeros(padded.shape), np.zeros(taps.shape)
    d_padded[:, length:] = d_last
    for i in range(past + 1):
        d_padded[:, past - i : past - i + length] += (g * taps[..., i]).sum(-1)
        d_tap = (g * earlier(i)[..., None]).sum((0, 1))
        d_taps[..., i] = d_tap if len(taps) == len(d_tap) else d_tap.sum(0)
    gradients = {"x": d_padded[:, past:], "kernel": d_taps.reshape(kernel.shape), "state": d_padded[:, :past]}
    return y, last, {n: gradient for n, gradient in gradients.items() if inputs.get(n) is not None}


def _padded(x, state, past):
    """Return x after the `past` inputs before it, zeros without a state, in float64."""
    x = np.asarray(x, np.float64)
    state = np.zeros((len(x), past, x.shape[2])) if state is None else np.asarray(state, np.float64)
    return np.concatenate([state, x], axis=1)
