"""Mixers whose state is a matrix that decays and takes in k v^T."""

import numpy as np

from oracles.common import conv, each_document, rms_norm, sigmoid, silu


@each_document
def gla(p, x, config):
    """Yang et al. 2023, eq. 4 and section 4.4: S_t = Diag(alpha_t) S_{t-1} + k_t^T v_t, alpha = sigmoid(.)^(1/tau)."""
    h = config.num_heads
    q, k, v = (x @ p[f"in_{name}"] for name in "qkv")
    if config.conv_width:
        q, k, v = (silu(conv(z, p[f"conv_{name}"])) for name, z in zip("qkv", (q, k, v), strict=True))
    alpha = sigmoid(x @ p["in_decay"] @ p["decay_kernel"] + p["decay_bias"]) ** (1 / config.gate_normalizer)
    q, k, v, alpha = (z.reshape(len(x), h, -1) for z in (q, k, v, alpha))
    s, o = np.zeros((h, k.shape[2], v.shape[2])), np.zeros(v.shape)
    for t in range(len(x)):
        s = alpha[t][:, :, None] * s + k[t][:, :, None] * v[t][:, None, :]
        o[t] = np.einsum("hk,hkv->hv", q[t], s) / np.sqrt(k.shape[2])
    o = rms_norm(o, p["norm_scale"], config.norm_eps).reshape(len(x), -1)
    return (o * silu(x @ p["in_gate"])) @ p["out_kernel"]
