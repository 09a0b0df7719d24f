"""gla, delta_net and gated_deltanet of the flash-linear-attention hub.

What they share: x + mixer(norm(x)), then x + mlp(norm(x)).
"""

import numpy as np

from oracles.common import rms_norm, sigmoid, silu
from oracles.published.common import checked, conv, divided, ends, head, settled, under, unit, whole

FLA = {
    "hidden_size": 2048,
    "hidden_ratio": 4,
    "intermediate_size": None,
    "hidden_act": "swish",
    "norm_eps": 1e-6,
    "conv_size": 4,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "attn": None,
    "attnres_block_size": None,
}
FLA_CHOICES = {"hidden_act": ("swish",), "attn": (None,), "attnres_block_size": (None,)}


def shapes_fla(config, mixer):
    """Of a model whose mixers each hold the tensors `mixer`."""
    d, ratio, hidden = config["hidden_size"], config["hidden_ratio"], config["intermediate_size"]
    if hidden is None:  # two thirds, because a gated MLP has three matrices; the next multiple of 256
        hidden = -(-int(d * (4 if ratio is None else ratio) * 2 / 3) // 256) * 256
    block = {
        "attn_norm.weight": (d,),
        **{f"attn.{name}": shape for name, shape in mixer.items()},
        "mlp_norm.weight": (d,),
        "mlp.gate_proj.weight": (hidden, d),
        "mlp.up_proj.weight": (hidden, d),
        "mlp.down_proj.weight": (d, hidden),
    }
    return ends(config, [block] * config["num_hidden_layers"], ("weight",))


def fla(config, tensors, tokens, mixer):
    eps, rows = config["norm_eps"], []
    for row in np.asarray(tokens):
        x = tensors["model.embeddings.weight"][row]
        for i in range(config["num_hidden_layers"]):
            p = under(tensors, f"model.layers.{i}.")
            x = x + mixer(config, under(p, "attn."), rms_norm(x, p["attn_norm.weight"], eps))
            z = rms_norm(x, p["mlp_norm.weight"], eps)
            z = silu(z @ p["mlp.gate_proj.weight"].T) * (z @ p["mlp.up_proj.weight"].T)
            x = x + z @ p["mlp.down_proj.weight"].T
        rows.append(rms_norm(x, tensors["model.norm.weight"], eps) @ head(config, tensors).T)
    return np.stack(rows)


def short_convs(config, widths):
    """Shapes of the convolutions of q, k, v. No published model has a bias in them."""
    names = zip("qkv", widths, strict=True) if config["use_short_conv"] else ()
    return {f"{name}_conv1d.weight": (width, 1, config["conv_size"]) for name, width in names}


def projected(config, p, x):
    """q, k, v as rows (T, E), after the short convolutions where there are some."""
    rows = {name: x @ p[f"{name}_proj.weight"].T for name in "qkv"}
    if config["use_short_conv"]:
        rows = {name: conv(z, p[f"{name}_conv1d.weight"]) for name, z in rows.items()}
    return rows.values()


# gla: Yang et al. 2023, arXiv 2312.06635.

GLA = {
    **FLA,
    "model_type": "gla",
    "expand_k": 0.5,
    "expand_v": 1.0,
    "num_hidden_layers": 24,
    "num_heads": 4,
    "num_kv_heads": None,
    "feature_map": None,
    "use_short_conv": False,
    "use_output_gate": True,
    "clamp_min": None,
    "elementwise_affine": True,
    "fuse_norm": True,
}
GLA_RANK, GLA_TEMPERATURE = 16, 16  # of the decay; the model's code leaves its layer no other values


def shapes_gla(config):
    config = settled(config, GLA, {**FLA_CHOICES, "feature_map": (None,)})
    d, h = config["hidden_size"], config["num_heads"]
    k, v = (divided("num_heads", whole(field, d * config[field]), h) for field in ("expand_k", "expand_v"))
    kv = config["num_kv_heads"] or h
    divided("num_kv_heads", h, kv)
    mixer = {
        "q_proj.weight": (h * k, d),
        "k_proj.weight": (kv * k, d),
        "v_proj.weight": (kv * v, d),
        **short_convs(config, (h * k, kv * k, kv * v)),
        "gk_proj.0.weight": (GLA_RANK, d),
        "gk_proj.1.weight": (kv * k, GLA_RANK),
        "gk_proj.1.bias": (kv * k,),
        "o_proj.weight": (d, h * v),
    }
    if config["use_output_gate"]:
        mixer["g_proj.weight"] = (h * v, d)
    if config["elementwise_affine"]:
        mixer[gla_norm(config)] = (v,)
    return shapes_fla(config, mixer)


def gla_norm(config):
    """The name of the norm's scale tells whether one kernel does norm and gate."""
    return "g_norm_swish_gate.weight" if config["fuse_norm"] and config["use_output_gate"] else "g_norm.weight"


def gla(config, tensors, tokens):
    tensors = checked(tensors, shapes_gla(config))
    return fla({**GLA, **config}, tensors, tokens, gla_mixer)


def gla_mixer(config, p, x):
    """S_t = Diag(alpha_t) S_{t-1} + k_t^T v_t, alpha = sigmoid(.)^(1/16); o_t = q_t S_t / sqrt(K)."""
    length, h = len(x), config["num_heads"]
    kv = config["num_kv_heads"] or h
    q, k, v = projected(config, p, x)
    if config["use_short_conv"]:
        q, k, v = silu(q), silu(k), silu(v)
    log_alpha = x @ p["gk_proj.0.weight"].T @ p["gk_proj.1.weight"].T + p["gk_proj.1.bias"]
    log_alpha = -np.logaddexp(0, -log_alpha) / GLA_TEMPERATURE
    if config["clamp_min"] is not None:
        log_alpha = np.maximum(log_alpha, config["clamp_min"])
    q = q.reshape(length, h, -1)
    k, v, log_alpha = (z.reshape(length, kv, -1) for z in (k, v, log_alpha))
    o = np.zeros((length, h, v.shape[2]))
    for i in range(h):
        j = i // (h // kv)  # neighbouring heads share keys, values and decays
        s = np.zeros((k.shape[2], v.shape[2]))
        for t in range(length):
            s = np.exp(log_alpha[t, j])[:, None] * s + np.outer(k[t, j], v[t, j])
            o[t, i] = q[t, i] @ s / np.sqrt(k.shape[2])
    o = rms_norm(o, p.get(gla_norm(config), 1.0), config["norm_eps"]).reshape(length, -1)
    if config["use_output_gate"]:
        o = o * silu(x @ p["g_proj.weight"].T)
    return o @ p["o_proj.weight"].T


def delta_rule(q, k, v, beta, decay):
    """S' = decay S, then S = S' + beta k (v - k S'), o = q S / sqrt(K); q, k, v (T, H, .), beta and decay (T, H)."""
    o = np.zeros(v.shape)
    for h in range(v.shape[1]):
        s = np.zeros((k.shape[2], v.shape[2]))
        for t in range(len(v)):
            s = decay[t, h] * s
            s = s + beta[t, h] * np.outer(k[t, h], v[t, h] - k[t, h] @ s)
            o[t, h] = q[t, h] @ s / np.sqrt(k.shape[2])
    return o


# delta_net: Yang et al. 2024, arXiv 2406.06484.

DELTA_NET = {
    **FLA,
    "model_type": "delta_net",
    "expand_k": 1.0,
    "expand_v": 1.0,
    "num_hidden_layers": 24,
    "num_heads": 16,
    "use_beta": True,
    "use_gate": False,
    "use_short_conv": True,
    "allow_neg_eigval": False,
    "qk_activation": "silu",
    "qk_norm": "l2",
}
QK_ACTIVATIONS = {
    "silu": silu,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x >= 0, x + 1, np.exp(np.minimum(x, 0))),  # plus one
    "identity": lambda x: x,
}
QK_NORMS = {
    "l2": unit,
    "sum": lambda x: x / np.maximum(np.abs(x).sum(-1, keepdims=True), 1e-6),
}


def shapes_delta_net(config):
    config = settled(
        config, DELTA_NET, {**FLA_CHOICES, "qk_activation": tuple(QK_ACTIVATIONS), "qk_norm": tuple(QK_NORMS)}
    )
    d, h = config["hidden_size"], config["num_heads"]
    k, v = (divided("num_heads", whole(field, d * config[field]), h) for field in ("expand_k", "expand_v"))
    mixer = {
        "q_proj.weight": (h * k, d),
        "k_proj.weight": (h * k, d),
        "v_proj.weight": (h * v, d),
        **short_convs(config, (h * k, h * k, h * v)),
        "o_norm.weight": (v,),
        "o_proj.weight": (d, h * v),
    }
    if config["use_beta"]:
        mixer["b_proj.weight"] = (h, d)
    if config["use_gate"]:
        mixer["g_proj.weight"] = (h * v, d)
    return shapes_fla(config, mixer)


def delta_net(config, tensors, tokens):
    tensors = checked(tensors, shapes_delta_net(config))
    return fla({**DELTA_NET, **config}, tensors, tokens, delta_net_mixer)


def delta_net_mixer(config, p, x):
    length, h = len(x), config["num_heads"]
    q, k, v = (z.reshape(length, h, -1) for z in projected(config, p, x))
    activation, norm = QK_ACTIVATIONS[config["qk_activation"]], QK_NORMS[config["qk_norm"]]
    q, k, v = norm(activation(q)), norm(activation(k)), silu(v)
    beta = sigmoid(x @ p["b_proj.weight"].T) if config["use_beta"] else np.ones((length, h))
    beta = 2 * beta if config["allow_neg_eigval"] else beta
    o = delta_rule(q, k, v, beta, np.ones((length, h)))
    o = rms_norm(o, p["o_norm.weight"], config["norm_eps"]).reshape(length, -1)
    if config["use_gate"]:
        o = o * silu(x @ p["g_proj.weight"].T)
    return o @ p["o_proj.weight"].T


# gated_deltanet: Yang et al. 2024, arXiv 2412.06464.

GATED_DELTANET = {
    **FLA,
    "model_type": "gated_deltanet",
    "expand_v": 2.0,
    "head_dim": 256,
    "num_hidden_layers": 21,
    "num_heads": 6,
    "num_v_heads": None,
    "use_gate": True,
    "output_gate_activation": "swish",
    "use_short_conv": True,
    "allow_neg_eigval": False,
}
OUTPUT_GATES = {"swish": silu, "silu": silu, "sigmoid": sigmoid}


def shapes_gated_deltanet(config):
    config = settled(config, GATED_DELTANET, {**FLA_CHOICES, "output_gate_activation": tuple(OUTPUT_GATES)})
    d, h, k = config["hidden_size"], config["num_heads"], config["head_dim"]
    hv, v = config["num_v_heads"] or h, whole("expand_v", k * config["expand_v"])
    divided("num_heads", hv, h)
    mixer = {
        "q_proj.weight": (h * k, d),
        "k_proj.weight": (h * k, d),
        "v_proj.weight": (hv * v, d),
        **short_convs(config, (h * k, h * k, hv * v)),
        "a_proj.weight": (hv, d),
        "b_proj.weight": (hv, d),
        "A_log": (hv,),
        "dt_bias": (hv,),
        "o_norm.weight": (v,),
        "o_proj.weight": (d, hv * v),
    }
    if config["use_gate"]:
        mixer["g_proj.weight"] = (hv * v, d)
    return shapes_fla(config, mixer)


def gated_deltanet(config, tensors, tokens):
    tensors = checked(tensors, shapes_gated_deltanet(config))
    return fla({**GATED_DELTANET, **config}, tensors, tokens, gated_deltanet_mixer)


def gated_deltanet_mixer(config, p, x):
    length, h = len(x), config["num_heads"]
    hv = config["num_v_heads"] or h
    q, k, v = (silu(z) for z in projected(config, p, x))
    q, k, v = q.reshape(length, h, -1), k.reshape(length, h, -1), v.reshape(length, hv, -1)
    readers = np.arange(hv) // (hv // h)  # the query and key that each state takes: neighbours share one
    q, k = unit(q)[:, readers], unit(k)[:, readers]
    decay = np.exp(-np.exp(p["A_log"]) * np.logaddexp(0, x @ p["a_proj.weight"].T + p["dt_bias"]))
    beta = (2 if config["allow_neg_eigval"] else 1) * sigmoid(x @ p["b_proj.weight"].T)
    o = delta_rule(q, k, v, beta, decay)
    o = rms_norm(o, p["o_norm.weight"], config["norm_eps"]).reshape(length, -1)
    if config["use_gate"]:
        o = o * OUTPUT_GATES[config["output_gate_activation"]](x @ p["g_proj.weight"].T)
    return o @ p["o_proj.weight"].T
