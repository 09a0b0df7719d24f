"""What the oracles share: float64, documents, activations, norms, the short convolution."""

import functools

import numpy as np


def wide(array):
    """The same numbers in float64 or complex128."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def each_document(layer):
    """From `layer(p, x, config)` of one document, x (T, D), to rows (B, T, D) of documents that `reset` begins."""

    @functools.wraps(layer)
    def rows(params, x, reset, config):
        p, x = {name: wide(value) for name, value in params.items()}, wide(x)
        y = np.zeros(x.shape)
        for i, row in enumerate(x):
            borders = [0] if reset is None else [0, *(t for t in range(1, len(row)) if reset[i, t])]
            for start, end in zip(borders, [*borders[1:], len(row)], strict=True):
                y[i, start:end] = layer(p, row[start:end], config)
        return y

    return rows


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))  # overflows nowhere


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.logaddexp(0, x)


def gelu(x):
    """The tanh form of Hendrycks and Gimpel (arXiv 1606.08415), which Griffin and jax.nn.gelu use."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": gelu,
    "silu": silu,
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
}


def rms_norm(x, scale=1.0, eps=1e-5):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def layer_norm(x, scale=1.0, bias=0.0, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return scale * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + bias


def conv(x, kernel, bias=0.0):
    """Causal depthwise convolution of a document (T, E); the kernel's last row meets the present token."""
    padded = np.concatenate([np.zeros((len(kernel) - 1, x.shape[1])), x])
    return np.stack([(padded[t : t + len(kernel)] * kernel).sum(0) for t in range(len(x))]) + bias
