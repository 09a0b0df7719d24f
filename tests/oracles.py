"""What the recurrences are, step by step in NumPy float64. Imports no JAX: shares no bug with the library."""

import numpy as np


def wide(array):
    """The same numbers in float64 or complex128."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


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


# Layers: parameters by their names, x (B, T, D), reset (B, T) or None; config only for numbers that are no arrays.


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))  # overflows nowhere


def softplus(x):
    return np.logaddexp(0, x)


def gelu(x):
    """The tanh form of Hendrycks and Gimpel (arXiv 1606.08415), which Griffin and jax.nn.gelu use."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
}


def mlp(params, x, config):
    """act(x W_in + b) W_out."""
    p = {name: wide(value) for name, value in params.items()}
    return ACTIVATIONS[config.activation](wide(x) @ p["in_kernel"] + p["bias"]) @ p["out_kernel"]


def glu(params, x, config):
    """(act(x W_gate) * x W_in) W_out."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    return (ACTIVATIONS[config.activation](x @ p["in_gate"]) * (x @ p["in_kernel"])) @ p["out_kernel"]


def lru(params, x, reset, config):
    """Orvieto et al. 2023, eq. 5: x_k = Lambda x_{k-1} + exp(gamma_log) * (B u_k), y_k = Re(C x_k) + D * u_k."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    modulus, phase = np.exp(-np.exp(p["nu_log"])), np.exp(p["theta_log"])
    eigenvalue = modulus * (np.cos(phase) + 1j * np.sin(phase))
    b, c = p["in_real"] + 1j * p["in_imag"], p["out_real"] + 1j * p["out_imag"]
    y = np.zeros(x.shape)
    for i in range(x.shape[0]):
        h = np.zeros(eigenvalue.shape, complex)
        for t in range(x.shape[1]):
            if reset is not None and reset[i, t]:
                h = np.zeros_like(h)
            h = eigenvalue * h + np.exp(p["gamma_log"]) * (x[i, t] @ b)
            y[i, t] = (h @ c).real + p["skip"] * x[i, t]
    return y


def rglru(params, x, reset, config):
    """De et al. 2024, section 2.4 and figure 2c: the recurrent block around the RG-LRU, gates block-diagonal."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)

    def dense(blocks):
        """The block-diagonal matrix, written out."""
        size = blocks.shape[1]
        matrix = np.zeros((len(blocks) * size, len(blocks) * size))
        for i, block in enumerate(blocks):
            matrix[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
        return matrix

    w_a, w_x = dense(p["recurrence_gate_kernel"]), dense(p["input_gate_kernel"])
    y = np.zeros(x.shape)
    for i in range(x.shape[0]):
        h, start = np.zeros(p["decay"].shape), 0
        for t in range(x.shape[1]):
            if reset is not None and reset[i, t]:
                h, start = np.zeros_like(h), t
            u = p["conv_bias"].copy()
            for tap, weight in enumerate(p["conv_kernel"][::-1]):
                if t - tap >= start:
                    u = u + weight * (x[i, t - tap] @ p["in_kernel"])
            r = sigmoid(u @ w_a + p["recurrence_gate_bias"])
            gate = sigmoid(u @ w_x + p["input_gate_bias"])
            a = sigmoid(-p["decay"]) ** (config.c * r)  # exp(-softplus(v)) = sigmoid(-v)
            h = a * h + np.sqrt(1 - a**2) * (gate * u)
            y[i, t] = (gelu(x[i, t] @ p["in_gate"]) * h) @ p["out_kernel"]
    return y


def attention(params, x, reset, config):
    """softmax over the tokens of the same document that the window reaches; rotary turns as complex multiplication."""
    p, x = {name: wide(value) for name, value in params.items()}, wide(x)
    batch, length, _ = x.shape
    heads = config.num_heads
    head_dim = p["in_q"].shape[1] // heads
    share = heads // (p["in_k"].shape[1] // head_dim)
    window = length if config.window is None else config.window
    turn = np.exp(1j * config.rotary_base ** (-2 * np.arange(head_dim // 2) / head_dim))

    def rotated(vector, position):
        """Channels (i, i + K/2) as one complex number, turned `position` times."""
        pair = (vector[: head_dim // 2] + 1j * vector[head_dim // 2 :]) * turn**position
        return np.concatenate([pair.real, pair.imag])

    y = np.zeros(x.shape)
    for i in range(batch):
        start = 0
        for t in range(length):
            if reset is not None and reset[i, t]:
                start = t
            visible = range(max(start, t - window + 1), t + 1)
            out = []
            for h in range(heads):
                own, shared = slice(h * head_dim, (h + 1) * head_dim), h // share * head_dim
                shared = slice(shared, shared + head_dim)
                q = rotated((x[i, t] @ p["in_q"])[own], t)
                scores = [q @ rotated((x[i, s] @ p["in_k"])[shared], s) / np.sqrt(head_dim) for s in visible]
                weights = np.exp(scores - np.max(scores))
                values = [(x[i, s] @ p["in_v"])[shared] for s in visible]
                out.append(weights @ np.array(values) / weights.sum())
            y[i, t] = np.concatenate(out) @ p["out_kernel"]
    return y
