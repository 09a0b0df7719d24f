"""Mixers whose state is a matrix that decays and takes in k v^T."""

import numpy as np

from oracles.common import conv, each_document, layer_norm, rms_norm, sigmoid, silu, softplus


@each_document
def gla(p, x, config):
    """Yang et al. 2023, eq. 4 and section 4.4: S_t = Diag(alpha_t) S_{t-1} + k_t^T v_t, alpha = sigmoid(.)^(1/tau)."""
    h = config.num_heads
    q, k, v = (x @ p[f"in_{name}"] for name in "qkv")
    if config.conv_width:
        q, k, v = (silu(conv(z, p[f"conv_{name}"])) for name, z in zip("qkv", (q, k, v), strict=True))
    alpha = sigmoid(x @ p["in_decay"] @ p["decay_kernel"] + p["decay_bias"]) ** (1 / config.gate_normalizer)
    groups = config.num_kv_heads or h
    q = q.reshape(len(x), h, -1)
    k, v, alpha = (z.reshape(len(x), groups, -1) for z in (k, v, alpha))
    s, o = np.zeros((groups, k.shape[2], v.shape[2])), np.zeros((len(x), h, v.shape[2]))
    for t in range(len(x)):
        s = alpha[t][:, :, None] * s + k[t][:, :, None] * v[t][:, None, :]
        for i in range(h):
            o[t, i] = q[t, i] @ s[i // (h // groups)] / np.sqrt(k.shape[2])
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(len(x), -1)
    return (o * silu(x @ p["in_gate"])) @ p["out_kernel"]


FEATURE_MAPS = {
    "elu": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": silu,
    "identity": lambda x: x,
}


def qkv(p, x, config):
    """Projections as (T, H, K | V)."""
    return [(x @ p[f"in_{name}"]).reshape(len(x), config.num_heads, -1) for name in "qkv"]


@each_document
def linear_attention(p, x, config):
    """Katharopoulos et al. 2020, eq. 16 to 20, as the sum over all tokens so far."""
    q, k, v = qkv(p, x, config)
    q, k = (FEATURE_MAPS[config.feature_map](z) for z in (q, k))
    o = np.zeros(v.shape)
    for t in range(len(x)):
        for h in range(config.num_heads):
            weights = k[: t + 1, h] @ q[t, h]
            total = weights.sum() + config.eps if config.normalize else np.sqrt(q.shape[2])
            o[t, h] = weights @ v[: t + 1, h] / total
    return o.reshape(len(x), -1) @ p["out_kernel"]


@each_document
def retnet(p, x, config):
    """Sun et al. 2023, eq. 5 to 8: retention as a sum over the past, rotary turns as complex multiplication."""
    q, k, v = qkv(p, x, config)
    half = q.shape[2] // 2
    turn = np.exp(1j * config.rotary_base ** (-np.arange(half) / half))
    q, k = (z[..., :half] + 1j * z[..., half:] for z in (q, k))
    o = np.zeros(v.shape)
    for t in range(len(x)):
        for h in range(config.num_heads):
            gamma = 1 - 2.0 ** (-5 - h)
            for s in range(t + 1):
                score = (q[t, h] * turn**t) @ np.conj(k[s, h] * turn**s)
                o[t, h] += gamma ** (t - s) * score.real / np.sqrt(2 * half) * v[s, h]
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(len(x), -1)
    return (o * silu(x @ p["in_gate"])) @ p["out_kernel"]


@each_document
def transnormer(p, x, config):
    """Qin et al. 2022, eq. 9: Norm(Q (K^T V))."""
    q, k, v = qkv(p, x, config)
    q, k = (FEATURE_MAPS[config.feature_map](z) for z in (q, k))
    s, o = np.zeros((config.num_heads, k.shape[2], v.shape[2])), np.zeros(v.shape)
    for t in range(len(x)):
        s = s + np.einsum("hk,hv->hkv", k[t], v[t])
        o[t] = np.einsum("hk,hkv->hv", q[t], s)
    return rms_norm(o.reshape(len(x), -1), p["norm_scale"], config.norm_eps) @ p["out_kernel"]


def slopes(num_heads):
    """Return the fixed decays of the first layer, 2^(-8 h / H) for h = 1 .. H."""
    return 2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads)


@each_document
def transnormer_llm(p, x, config):
    """Qin et al. 2023, section 3.1: LRPE-d as q_i k_i lambda^(t-s) cos(theta_i (t-s)), gating by u, SimpleRMSNorm."""
    q, k, v = qkv(p, x, config)
    q, k = silu(q), silu(k)
    o = np.zeros(v.shape)
    for t in range(len(x)):
        for s in range(t + 1):
            angle = p["theta"] * (t - s) if config.lrpe else 0.0
            score = (q[t] * k[s] * np.cos(angle)).sum(-1)
            o[t] += (np.exp(-slopes(config.num_heads) * (t - s)) * score)[:, None] * v[s]
    return (rms_norm(o.reshape(len(x), -1), eps=config.norm_eps) * (x @ p["in_gate"])) @ p["out_kernel"]


@each_document
def lightning(p, x, config):
    """MiniMax 2025, section 2.2: decayed sums of scores and values, normed over all heads, gated."""
    q, k, v = (silu(z) for z in qkv(p, x, config))
    o = np.zeros(v.shape)
    for t in range(len(x)):
        for s in range(t + 1):
            decay = np.exp(-slopes(config.num_heads) * (t - s))
            o[t] += (decay * (q[t] * k[s]).sum(-1))[:, None] * v[s]
    o = rms_norm(o.reshape(len(x), -1), p["norm_scale"], config.norm_eps)
    return (o * sigmoid(x @ p["in_gate"])) @ p["out_kernel"]


@each_document
def lightnet(p, x, config):
    """Qin et al. 2024, section 3.2: the state is the average of k v^T under the softmax of all keys so far."""
    q, c, v = qkv(p, x, config)
    q = silu(q)
    o = np.zeros(v.shape)
    for t in range(len(x)):
        weights = np.exp(c[: t + 1] - c[: t + 1].max(0))
        weights = weights / weights.sum(0)
        o[t] = np.einsum("hk,shk,shv->hv", q[t], weights, v[: t + 1]) / np.sqrt(q.shape[2])
    o = rms_norm(o.reshape(len(x), -1), p["norm_scale"], config.norm_eps)
    return (o * silu(x @ p["in_gate"] @ p["gate_kernel"])) @ p["out_kernel"]


@each_document
def hgrn2(p, x, config):
    """Qin et al. 2024, eq. 8: h_t = Diag(f_t) h_{t-1} + (1 - f_t) i_t^T with a lower bound on f."""
    heads = config.num_heads
    bound = sigmoid(p["lower_bound"])
    f = (bound + (1 - bound) * sigmoid(x @ p["in_forget"])).reshape(len(x), heads, -1)
    q, v = (z.reshape(len(x), heads, -1) for z in (silu(x @ p["in_q"]), x @ p["in_v"]))
    s, o = np.zeros((heads, f.shape[2], v.shape[2])), np.zeros(v.shape)
    for t in range(len(x)):
        s = f[t][:, :, None] * s + (1 - f[t])[:, :, None] * v[t][:, None, :]
        o[t] = np.einsum("hk,hkv->hv", q[t], s) / np.sqrt(f.shape[2])
    return rms_norm(o.reshape(len(x), -1), p["norm_scale"], config.norm_eps) @ p["out_kernel"]


@each_document
def mamba2(p, x, config):
    """Dao and Gu 2024, section 7 and listing 1: a scalar A per head, groups of heads with one B and C."""
    h, groups, n = config.num_heads, config.num_groups, config.state_dim
    u, b, c = (silu(conv(x @ p[f"in_{z}"], p[f"conv_{z}"], p[f"conv_{z}_bias"])) for z in "ubc")
    u, b, c = u.reshape(len(x), h, -1), b.reshape(len(x), groups, n), c.reshape(len(x), groups, n)
    s, y = np.zeros((h, n, u.shape[2])), np.zeros(x.shape)
    for t in range(len(x)):
        dt = np.clip(softplus(x[t] @ p["in_dt"] + p["dt_bias"]), *config.dt_limit)
        o = np.zeros(u.shape[1:])
        for i in range(h):
            g = i // (h // groups)
            s[i] = np.exp(-np.exp(p["a_log"][i]) * dt[i]) * s[i] + np.outer(b[t, g], dt[i] * u[t, i])
            o[i] = c[t, g] @ s[i] + p["skip"][i] * u[t, i]
        o = o.reshape(-1) * silu(x[t] @ p["in_gate"])
        o = rms_norm(o.reshape(groups, -1), eps=config.norm_eps).reshape(-1) * p["norm_scale"]
        y[t] = o @ p["out_kernel"]
    return y


@each_document
def mlstm(p, x, config):
    """Beck et al. 2024, eq. 19 to 27, without units; xLSTM 7B's soft caps and norm. m only where eps is added."""
    heads = config.num_heads
    q, k, v = qkv(p, x, config)
    q = q / np.sqrt(q.shape[2])
    i, f = (x @ p[f"in_{name}_gate"] + p[f"{name}_gate_bias"] for name in ("input", "forget"))
    if config.gate_soft_cap is not None:
        i, f = (config.gate_soft_cap * np.tanh(z / config.gate_soft_cap) for z in (i, f))
    c, n, m = np.zeros((heads, k.shape[2], v.shape[2])), np.zeros((heads, k.shape[2])), np.zeros(heads)
    o = np.zeros(v.shape)
    for t in range(len(x)):
        forget = sigmoid(f[t])
        add = np.exp(i[t]) if config.input_gate == "exponential" else sigmoid(i[t])
        c = forget[:, None, None] * c + add[:, None, None] * k[t][:, :, None] * v[t][:, None, :]
        n = forget[:, None] * n + add[:, None] * k[t]
        m = np.maximum(np.log(forget) + m, i[t])
        o[t] = np.einsum("hkv,hk->hv", c, q[t])
        if config.input_gate == "exponential":
            divisor = np.maximum(np.abs((n * q[t]).sum(-1)), 1) + config.eps * np.exp(m)
            o[t] /= divisor[:, None]
    o = layer_norm(o, eps=config.norm_eps).reshape(len(x), -1) * p["norm_scale"]
    return (sigmoid(x @ p["in_gate"]) * o) @ p["out_kernel"]
