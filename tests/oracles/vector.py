"""Mixers whose state is a vector per channel, with decays of their own: LRU, RG-LRU, HGRN, Mamba."""

import numpy as np

from oracles.common import conv, each_document, gelu, layer_norm, rms_norm, sigmoid, silu, softplus


@each_document
def lru(p, x, config):
    """Orvieto et al. 2023, eq. 5: x_k = Lambda x_{k-1} + exp(gamma_log) * (B u_k), y_k = Re(C x_k) + D * u_k."""
    modulus, phase = np.exp(-np.exp(p["nu_log"])), np.exp(p["theta_log"])
    eigenvalue = modulus * (np.cos(phase) + 1j * np.sin(phase))
    b, c = p["in_real"] + 1j * p["in_imag"], p["out_real"] + 1j * p["out_imag"]
    h, y = np.zeros(eigenvalue.shape, complex), np.zeros(x.shape)
    for t, u in enumerate(x):
        h = eigenvalue * h + np.exp(p["gamma_log"]) * (u @ b)
        y[t] = (h @ c).real + p["skip"] * u
    return y


@each_document
def rglru(p, x, config):
    """De et al. 2024, section 2.4 and figure 2c: the recurrent block around the RG-LRU, gates block-diagonal."""

    def dense(blocks):
        """The block-diagonal matrix, written out."""
        size = blocks.shape[1]
        matrix = np.zeros((len(blocks) * size, len(blocks) * size))
        for i, block in enumerate(blocks):
            matrix[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
        return matrix

    w_a, w_x = dense(p["recurrence_gate_kernel"]), dense(p["input_gate_kernel"])
    us = conv(x @ p["in_kernel"] + p.get("bias_in", 0), p["conv_kernel"], p["conv_bias"])
    h, y = np.zeros(p["decay"].shape), np.zeros(x.shape)
    for t, u in enumerate(us):
        r = sigmoid(u @ w_a + p["recurrence_gate_bias"])
        gate = sigmoid(u @ w_x + p["input_gate_bias"])
        a = sigmoid(-p["decay"]) ** (config.c * r)  # exp(-softplus(v)) = sigmoid(-v)
        h = a * h + (1 if config.unit_start and t == 0 else np.sqrt(1 - a**2)) * (gate * u)
        y[t] = (gelu(x[t] @ p["in_gate"] + p.get("bias_gate", 0)) * h) @ p["out_kernel"] + p.get("bias_out", 0)
    return y


@each_document
def hgrn(p, x, config):
    """Qin et al. 2023, section 3: h_t = f_t e^{i theta} h_{t-1} + (1 - f_t) c_t, the output gated, then normed."""
    bound = sigmoid(p["lower_bound"])
    h, y = np.zeros(bound.shape, complex), np.zeros(x.shape)
    for t, u in enumerate(x):
        c = silu(u @ p["in_real"] + p["real_bias"]) + 1j * silu(u @ p["in_imag"] + p["imag_bias"])
        f = bound + (1 - bound) * sigmoid(u @ p["in_forget"] + p["forget_bias"])
        h = f * np.exp(1j * p["theta"]) * h + (1 - f) * c
        o = sigmoid(u @ p["in_gate"] + p["gate_bias"]) * np.concatenate([h.real, h.imag])
        y[t] = layer_norm(o, p["norm_scale"], p["norm_bias"], config.norm_eps) @ p["out_kernel"] + p["bias"]
    return y


@each_document
def mamba(p, x, config):
    """Gu and Dao 2023, algorithm 2 and figure 3: A is discretised by zero-order hold, B by Euler's rule."""
    n = config.state_dim
    a = -np.exp(p["a_log"])
    us = silu(conv(x @ p["in_u"], p["conv_u"], p["conv_u_bias"]))
    h, y = np.zeros(a.shape), np.zeros(x.shape)
    for t, u in enumerate(us):
        select = u @ p["select_kernel"]
        r, b, c = select[: -2 * n], select[-2 * n : -n], select[-n:]
        if config.inner_norm_eps is not None:
            r, b, c = (rms_norm(z, eps=config.inner_norm_eps) for z in (r, b, c))
        dt = softplus(r @ p["dt_kernel"] + p["dt_bias"])
        h = np.exp(dt[:, None] * a) * h + np.outer(dt * u, b)
        y[t] = ((h @ c + p["skip"] * u) * silu(x[t] @ p["in_gate"])) @ p["out_kernel"]
    return y
