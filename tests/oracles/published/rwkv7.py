"""rwkv7 (Peng et al., 2025, arXiv 2503.14456), as flash-linear-attention stores it."""

import numpy as np

from oracles.common import layer_norm, sigmoid
from oracles.published.common import checked, divided, ends, head, settled, under, unit

RWKV7 = {
    "model_type": "rwkv7",
    "hidden_size": 2048,
    "hidden_ratio": 4,
    "intermediate_size": None,
    "num_hidden_layers": 24,
    "head_dim": 64,
    "num_heads": None,
    "value_dim": None,
    "decay_low_rank_dim": 64,
    "gate_low_rank_dim": 128,
    "a_low_rank_dim": 64,
    "v_low_rank_dim": 16,
    "hidden_act": "sqrelu",
    "norm_first": True,
    "norm_bias": True,
    "norm_eps": 1e-5,
    "fuse_norm": True,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "attn": None,
}


def rwkv7_sizes(config):
    """The config with K as head_dim, H as num_heads, and every rank a number."""
    config = settled(config, RWKV7, {"hidden_act": ("sqrelu",), "attn": (None,)})
    d, k, h = config["hidden_size"], config["head_dim"], config["num_heads"]
    if k is None and h is None:
        raise ValueError("head_dim=None and num_heads=None: one of them has to be a number")
    k = divided("num_heads", d, h) if k is None else k  # a head_dim wins: num_heads of converted models is often wrong
    values = config["value_dim"]  # one per layer, one for all, or none
    if set(values if isinstance(values, list) else [values or d]) != {d}:
        raise ValueError(
            f"value_dim={values}: only hidden_size, {d}, is written here; the published code builds no other"
        )
    roots = {"decay": 2.5 * k / 64, "a": 2.5 * k / 64, "v": 1.7 * k / 64, "gate": 5}
    ranks = {f"{name}_low_rank_dim": max(32, round(root * d**0.5 / 32) * 32) for name, root in roots.items()}
    ranks = {name: rank if config[name] is None else config[name] for name, rank in ranks.items()}
    return {**config, **ranks, "head_dim": k, "num_heads": divided("head_dim", d, k)}


def shapes_rwkv7(config):
    config = rwkv7_sizes(config)
    d, h, k = config["hidden_size"], config["num_heads"], config["head_dim"]
    ratio, hidden = config["hidden_ratio"], config["intermediate_size"]
    if hidden is None:  # the next multiple of 32
        hidden = -(-int(d * (4 if ratio is None else ratio)) // 32) * 32
    norm = ("weight", "bias") if config["norm_bias"] else ("weight",)

    def block(i):
        norms = ("pre_norm", "attn_norm", "ffn_norm") if i == 0 and config["norm_first"] else ("attn_norm", "ffn_norm")
        ranks = {"w": "decay", "v": "v", "a": "a", "g": "gate"}
        if i == 0:
            del ranks["v"]  # its values are those that later layers mix with
        ranks = {name: config[f"{rank}_low_rank_dim"] for name, rank in ranks.items()}
        return {
            **{f"{name}.{part}": (d,) for name in norms for part in norm},
            **{f"attn.x_{name}": (1, 1, d) for name in "rwkvag"},
            "attn.k_k": (d,),
            "attn.k_a": (d,),
            "attn.r_k": (h, k),
            **{f"attn.{name}_proj.weight": (d, d) for name in "rkvo"},
            **{f"attn.{name}_lora.lora.0.weight": (rank, d) for name, rank in ranks.items()},
            **{f"attn.{name}_lora.lora.2.weight": (d, rank) for name, rank in ranks.items()},
            **{f"attn.{name}_lora.lora.2.bias": (d,) for name in ranks if name != "g"},
            "attn.g_norm.weight": (d,),
            "attn.g_norm.bias": (d,),
            "ffn.x_k": (d,),
            "ffn.key.weight": (hidden, d),
            "ffn.value.weight": (d, hidden),
        }

    return ends(config, [block(i) for i in range(config["num_hidden_layers"])], norm)


def mixed(x, share):
    """Of every channel a share from the token before, which is zero before the first."""
    before = np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])
    return x + (before - x) * share


def rwkv7(config, tensors, tokens):
    tensors, config = checked(tensors, shapes_rwkv7(config)), rwkv7_sizes(config)

    def norm(p, name, x):
        return layer_norm(x, p[f"{name}.weight"], p.get(f"{name}.bias", 0.0), config["norm_eps"])

    rows = []
    for row in np.asarray(tokens):
        x, v_first = tensors["model.embeddings.weight"][row], None
        for i in range(config["num_hidden_layers"]):
            p = under(tensors, f"model.layers.{i}.")
            if i == 0 and config["norm_first"]:
                x = norm(p, "pre_norm", x)
            y, v_first = rwkv7_mixer(config, under(p, "attn."), norm(p, "attn_norm", x), v_first)
            x = x + y
            key = mixed(norm(p, "ffn_norm", x), p["ffn.x_k"]) @ p["ffn.key.weight"].T
            x = x + np.maximum(key, 0) ** 2 @ p["ffn.value.weight"].T
        rows.append(norm(tensors, "model.norm", x) @ head(config, tensors).T)
    return np.stack(rows)


def rwkv7_mixer(config, p, x, v_first):
    """S_t = (diag(w_t) - (a_t kappa_t) kappa_t^T) S_{t-1} + k_t v_t^T, o_t = r_t S_t. Hands on the first layer's v."""
    length, h = len(x), config["num_heads"]

    def lora(name, z, activation=lambda z: z):
        hidden = activation(z @ p[f"{name}_lora.lora.0.weight"].T)
        return hidden @ p[f"{name}_lora.lora.2.weight"].T + p.get(f"{name}_lora.lora.2.bias", 0.0)

    xs = {name: mixed(x, p[f"x_{name}"][0, 0]) for name in "rwkvag"}
    r, k, v = (xs[name] @ p[f"{name}_proj.weight"].T for name in "rkv")
    w = np.exp(-np.exp(-0.5) * sigmoid(lora("w", xs["w"], np.tanh)))
    a = sigmoid(lora("a", xs["a"]))
    g = lora("g", xs["g"], sigmoid)
    v_first = v if v_first is None else v_first
    if "v_lora.lora.0.weight" in p:
        v = v + (v_first - v) * sigmoid(lora("v", xs["v"]))
    kappa, k = k * p["k_k"], k * (1 + (a - 1) * p["k_a"])
    r, w, k, v, a, kappa = (z.reshape(length, h, -1) for z in (r, w, k, v, a, kappa))
    if config["fuse_norm"]:
        kappa = unit(kappa)
    else:  # torch's own normalisation, with another constant
        kappa = kappa / np.maximum(np.sqrt((kappa**2).sum(-1, keepdims=True)), 1e-12)

    o = np.zeros(v.shape)
    for i in range(h):
        s = np.zeros((config["head_dim"], config["head_dim"]))
        for t in range(length):
            removed = np.outer(a[t, i] * kappa[t, i], kappa[t, i] @ s)
            s = w[t, i][:, None] * s - removed + np.outer(k[t, i], v[t, i])
            o[t, i] = r[t, i] @ s
    scale, bias = p["g_norm.weight"].reshape(h, -1), p["g_norm.bias"].reshape(h, -1)
    o = layer_norm(o, scale, bias, config["head_dim"] * config["norm_eps"])
    o = o + (r * k * p["r_k"]).sum(-1, keepdims=True) * v
    return (o.reshape(length, -1) * g) @ p["o_proj.weight"].T, v_first
