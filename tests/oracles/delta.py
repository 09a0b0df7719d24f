"""Mixers whose state corrects itself: the delta rule, with its gates and products, and RWKV-7."""

import numpy as np

from oracles.common import conv, each_document, rms_norm, sigmoid, silu, softplus


def unit(x, eps=1e-6):
    """Of length 1, but for the constant that the authors' kernels add."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + eps)


def silu_of_conv(p, x, config):
    """q, k, v (T, E)."""
    for name in "qkv":
        z = x @ p[f"in_{name}"]
        yield silu(conv(z, p[f"conv_{name}"]) if config.conv_width else z)


def sizes_of_steps(p, x, config):
    return (2 if config.negative_eigenvalues else 1) * sigmoid(x @ p["in_beta"])


def run(q, k, v, beta, alpha):
    """S <- (I - beta k k^T) Diag(alpha) S + beta k v^T, head by head; k, v, beta (T, R, H, ...), R steps per token."""
    (length, heads, key), value = q.shape, v.shape[-1]
    o = np.zeros((length, heads, value))
    for h in range(heads):
        s = np.zeros((key, value))
        for t in range(length):
            s = np.diag(alpha[t, h]) @ s
            for j in range(k.shape[1]):
                kj, vj, b = k[t, j, h], v[t, j, h], beta[t, j, h]
                s = (np.eye(key) - b * np.outer(kj, kj)) @ s + b * np.outer(kj, vj)
            o[t, h] = q[t, h] @ s / np.sqrt(key)
    return o


@each_document
def deltanet(p, x, config):
    """Yang et al. 2024 (2406.06484): S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T."""
    t, h = len(x), config.num_heads
    q, k, v = (z.reshape(t, h, -1) for z in silu_of_conv(p, x, config))
    beta = sizes_of_steps(p, x, config)
    o = run(unit(q), unit(k)[:, None], v[:, None], beta[:, None], np.ones(q.shape))
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(t, -1)
    return (o * silu(x @ p["in_gate"]) if config.output_gate else o) @ p["out_kernel"]


@each_document
def gated_deltanet(p, x, config):
    """Yang et al. 2024 (2412.06464), eq. 10: S_t = S_{t-1} (alpha_t (I - beta_t k_t k_t^T)) + beta_t v_t k_t^T."""
    t, h, states = len(x), config.num_heads, config.num_value_heads or config.num_heads
    q, k, v = silu_of_conv(p, x, config)
    q, k, v = q.reshape(t, h, -1), k.reshape(t, h, -1), v.reshape(t, states, -1)
    readers = [i * h // states for i in range(states)]  # of which key each state reads
    alpha = np.exp(-np.exp(p["a_log"]) * softplus(x @ p["in_decay"] + p["dt_bias"]))
    alpha = np.stack([alpha] * q.shape[2], axis=-1)
    q, k = unit(q)[:, readers], unit(k)[:, readers]
    o = run(q, k[:, None], v[:, None], sizes_of_steps(p, x, config)[:, None], alpha)
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(t, -1)
    return (o * silu(x @ p["in_gate"])) @ p["out_kernel"]


@each_document
def kda(p, x, config):
    """Kimi Team 2025, eq. 1: S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_{t-1} + beta_t k_t v_t^T."""
    t, h = len(x), config.num_heads
    q, k, v = (z.reshape(t, h, -1) for z in silu_of_conv(p, x, config))
    rate, steps = np.exp(p["a_log"])[:, None], (x @ p["in_decay"] @ p["decay_kernel"] + p["dt_bias"]).reshape(q.shape)
    if config.lower_bound is None:
        alpha = np.exp(-rate * softplus(steps))
    else:
        alpha = np.exp(config.lower_bound * sigmoid(rate * steps))
    o = run(unit(q), unit(k)[:, None], v[:, None], sizes_of_steps(p, x, config)[:, None], alpha)
    gate = x @ p["in_gate"] if config.full_rank_gate else x @ p["in_gate"] @ p["gate_kernel"]
    gate = gate + p["gate_bias"] if config.gate_bias else gate
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(t, -1)
    return (o * sigmoid(gate)) @ p["out_kernel"]


@each_document
def delta_product(p, x, config):
    """Siems et al. 2025: A_t = prod_j (I - beta_tj k_tj k_tj^T), and g_t before it where it is gated."""
    t, h, r = len(x), config.num_heads, config.num_householder
    q, k, v = silu_of_conv(p, x, config)
    q, k, v = q.reshape(t, h, -1), k.reshape(t, r, h, -1), v.reshape(t, r, h, -1)
    alpha = np.ones(q.shape)
    if config.forget_gate:
        alpha *= np.exp(-np.exp(p["a_log"]) * softplus(x @ p["in_decay"] + p["dt_bias"]))[:, :, None]
    o = run(unit(q), unit(k), v, sizes_of_steps(p, x, config).reshape(t, r, h), alpha)
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(t, -1)
    return (o * silu(x @ p["in_gate"]) if config.output_gate else o) @ p["out_kernel"]


def shifted(x):
    return np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])


@each_document
def rwkv7(p, x, config):
    """Peng et al. 2025, of a model's first layer: wkv_t = wkv_{t-1} G_t + v_t^T k~_t, o_t = wkv_t r_t."""
    length, h = len(x), config.num_heads
    xs = {i: x * (1 - p[f"mix_{i}"]) + shifted(x) * p[f"mix_{i}"] for i in "rwkvag"}
    r, k, v = (xs[i] @ p[f"in_{i}"] for i in "rkv")
    decay = np.exp(-np.exp(-0.5) * sigmoid(p["decay_bias"] + np.tanh(xs["w"] @ p["in_decay"]) @ p["decay_kernel"]))
    rate = sigmoid(p["rate_bias"] + xs["a"] @ p["in_rate"] @ p["rate_kernel"])
    gate = sigmoid(xs["g"] @ p["in_gate"]) @ p["gate_kernel"]
    kappa, k = k * p["removal_scale"], k * (1 - p["rate_scale"] + rate * p["rate_scale"])
    r, k, v, decay, rate, kappa = (z.reshape(length, h, -1) for z in (r, k, v, decay, rate, kappa))
    kappa = unit(kappa, config.key_norm_eps)
    y = np.zeros(v.shape)
    scale, bias = p["norm_scale"].reshape(h, -1), p["norm_bias"].reshape(h, -1)
    for i in range(h):
        wkv = np.zeros((v.shape[2], k.shape[2]))
        for t in range(length):
            transition = np.diag(decay[t, i]) - np.outer(kappa[t, i], rate[t, i] * kappa[t, i])
            wkv = wkv @ transition + np.outer(v[t, i], k[t, i])
            o = wkv @ r[t, i]
            o = (o - o.mean()) / np.sqrt(o.var() + config.norm_eps) * scale[i] + bias[i]
            y[t, i] = o + (r[t, i] * p["bonus"][i] * k[t, i]).sum() * v[t, i]
    return (y.reshape(length, -1) * gate) @ p["out_kernel"]


@each_document
def channel_mix(p, x, config):
    """Peng et al. 2025: k' = lerp(x_t, x_{t-1}, mu) W_k, y = relu(k')^2 W_v."""
    hidden = (x * (1 - p["mix"]) + shifted(x) * p["mix"]) @ p["in_kernel"]
    return np.maximum(hidden, 0) ** 2 @ p["out_kernel"]
