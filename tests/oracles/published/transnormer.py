"""transnormer: TransNormerLLM (Qin et al., 2023, arXiv 2307.14995). Its SimpleRMSNorm has no scale."""

import numpy as np

from oracles.common import rms_norm, silu
from oracles.published.common import checked, divided, settled, under

TRANSNORMER = {
    "model_type": "transnormer",
    "decoder_embed_dim": 1024,
    "decoder_layers": 24,
    "decoder_attention_heads": 8,
    "hidden_dim": 1024,
    "glu_dim": 2816,
    "linear_act_fun": "silu",
    "linear_use_lrpe_list": [],
    "linear_use_lrpe": None,
    "norm_type": "simplermsnorm",
    "no_scale_embedding": False,
    "bias": False,
    "vocab_size": 64000,
    "tie_word_embeddings": True,  # transformers' own default, which the family's config class leaves alone
}


def transnormer_sizes(config):
    """The config with glu_dim a number and linear_use_lrpe_list one truth per layer."""
    choices = {"linear_act_fun": ("silu", "swish"), "norm_type": ("simplermsnorm",), "bias": (False,)}
    config = settled(config, TRANSNORMER, choices)
    d, layers, lrpe = (config[name] for name in ("decoder_embed_dim", "decoder_layers", "linear_use_lrpe_list"))
    if layers < 2:
        raise ValueError(f"decoder_layers={layers}: the decays are divided by the number of layers less one")
    if not lrpe and config["linear_use_lrpe"] is None:
        raise ValueError(
            f"linear_use_lrpe_list={lrpe} and no linear_use_lrpe: which layers turn their keys is not said"
        )
    lrpe = lrpe or [config["linear_use_lrpe"]] * layers
    if len(lrpe) < layers:
        raise ValueError(f"linear_use_lrpe_list={lrpe} says nothing of some of {layers} layers")
    if any(lrpe) and config["hidden_dim"] != d:
        raise ValueError(f"hidden_dim={config['hidden_dim']}: the angles are as many as decoder_embed_dim, {d}")
    divided("decoder_attention_heads", config["hidden_dim"], config["decoder_attention_heads"])
    return {
        **config,
        "glu_dim": d if config["glu_dim"] == -1 else config["glu_dim"],
        "linear_use_lrpe_list": [bool(turned) for turned in lrpe],
    }


def shapes_transnormer(config):
    config = transnormer_sizes(config)
    d, e, h, glu = (config[name] for name in ("decoder_embed_dim", "hidden_dim", "decoder_attention_heads", "glu_dim"))
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], d)}
    for i in range(config["decoder_layers"]):
        block = {
            "token_mixer.qkvu_proj.weight": (4 * e, d),
            "token_mixer.out_proj.weight": (d, e),
            "channel_mixer.l1.weight": (glu, d),
            "channel_mixer.l2.weight": (glu, d),
            "channel_mixer.l3.weight": (d, glu),
        }
        if config["linear_use_lrpe_list"][i]:
            block["token_mixer.lrpe.theta"] = (h, 1, e // h)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], d)
    return shapes


def slopes(h):
    """2^(-8 i / H) for i = 1 .. H; where H is no power of two, every other slope of the next one fills up."""
    power = 2 ** int(np.log2(h))
    first = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return np.array(first + [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * (h - power), 2)])


def transnormer(config, tensors, tokens):
    tensors, config = checked(tensors, shapes_transnormer(config)), transnormer_sizes(config)
    layers, embedding = config["decoder_layers"], tensors["model.embed_tokens.weight"]
    head = embedding if config["tie_word_embeddings"] else tensors["lm_head.weight"]
    rows = []
    for row in np.asarray(tokens):
        x = embedding[row] * (1 if config["no_scale_embedding"] else np.sqrt(config["decoder_embed_dim"]))
        for i in range(layers):
            p = under(tensors, f"model.layers.{i}.")
            rates = slopes(config["decoder_attention_heads"]) * (1 - i / (layers - 1) + 1e-5)
            x = x + transnormer_mixer(p, rms_norm(x, eps=1e-6), rates)
            z = rms_norm(x, eps=1e-6)
            z = (z @ p["channel_mixer.l1.weight"].T) * (z @ p["channel_mixer.l2.weight"].T)
            x = x + z @ p["channel_mixer.l3.weight"].T
        rows.append(rms_norm(x, eps=1e-6) @ head.T)
    return np.stack(rows)


def transnormer_mixer(p, x, rates):
    """S_t = e^-rate S_{t-1} + k_t v_t^T, o_t = q_t S_t, and out(u_t norm(o_t)), the norm over all heads."""
    length, h = len(x), len(rates)
    q, k, v, u = np.split(x @ p["token_mixer.qkvu_proj.weight"].T, 4, axis=1)
    q, k, v = (z.reshape(length, h, -1) for z in (silu(q), silu(k), v))
    if "token_mixer.lrpe.theta" in p:  # a channel becomes a pair, turned by its place times theta
        angle = np.arange(length)[:, None, None] * p["token_mixer.lrpe.theta"][:, 0]
        q, k = (np.concatenate([z * np.cos(angle), z * np.sin(angle)], axis=2) for z in (q, k))
    o = np.zeros(v.shape)
    for i in range(h):
        s = np.zeros((k.shape[2], v.shape[2]))
        for t in range(length):
            s = np.exp(-rates[i]) * s + np.outer(k[t, i], v[t, i])
            o[t, i] = q[t, i] @ s
    return (u * rms_norm(o.reshape(length, -1), eps=1e-6)) @ p["token_mixer.out_proj.weight"].T
