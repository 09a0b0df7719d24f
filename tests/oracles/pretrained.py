"""Published models as a whole, from their tensors to logits, step by step in NumPy float64.

For families whose own code needs a GPU or a hub. Per family two functions:

    shapes_gla(config)            every tensor that a checkpoint holds -> its shape
    gla(config, tensors, tokens)  tokens (B, T) -> logits (B, T, vocab)

`config` is what config.json says, `tensors` what the file holds; tensors that no equation reads are passed over. Linear
layers are stored as (out, in). What a config asks for and no equation here has is a ValueError.
"""

import numpy as np


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))  # overflows nowhere


def silu(x):
    return x * sigmoid(x)


def rms_norm(x, scale=1.0, eps=1e-6):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def unit(x):
    """Of length 1, but for the constant that the kernels add."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def conv(x, weight):
    """Causal depthwise convolution of x (T, E); weight (E, 1, W) as torch stores it, the last tap meets the present."""
    taps = weight[:, 0].T
    padded = np.concatenate([np.zeros((len(taps) - 1, x.shape[1])), x])
    return np.stack([(padded[t : t + len(taps)] * taps).sum(0) for t in range(len(x))])


def settled(config, defaults, choices):
    """The config with the family's defaults; refuses the values that change the function in a way not written here."""
    config = {**defaults, **config}
    for field, known in {"model_type": (defaults["model_type"],), **choices}.items():
        if config[field] not in known:
            raise ValueError(f"{field}={config[field]!r}: of {defaults['model_type']} only {known} is written here")
    return config


def checked(tensors, shapes):
    """The tensors in float64, after a look at their shapes."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"the checkpoint has no tensor {name}, which should be {shape}")
        if tuple(np.shape(tensors[name])) != tuple(shape):
            raise ValueError(f"{name} is {tuple(np.shape(tensors[name]))}, not {tuple(shape)}")
    return {name: np.asarray(tensors[name], np.float64) for name in shapes}


def under(tensors, prefix):
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def divided(field, size, parts):
    if size % parts:
        raise ValueError(f"{field}={parts} does not divide {size}")
    return size // parts


def whole(field, size):
    """A width that a ratio gives."""
    if abs(size - round(size)) > 1e-6 * size:
        raise ValueError(f"{field} gives a width of {size}, which is no whole number")
    return round(size)


# What gla, delta_net and gated_deltanet of flash-linear-attention share: x + mixer(norm(x)), then x + mlp(norm(x)).

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
    """Of a model whose every mixer has the tensors `mixer`."""
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
    return ends(config, {f"model.layers.{i}.{n}": s for i in range(config["num_hidden_layers"]) for n, s in block.items()})


def ends(config, layers, norm=("weight",)):
    """The shapes of the layers between those of the embedding and of the head."""
    d, vocab = config["hidden_size"], config["vocab_size"]
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": (vocab, d)}
    return {"model.embeddings.weight": (vocab, d), **layers, **{f"model.norm.{n}": (d,) for n in norm}, **head}


def head(config, tensors):
    """The matrix (vocab, D) that gives logits. Tied, a head in the file is passed over, as transformers does."""
    return tensors["model.embeddings.weight" if config["tie_word_embeddings"] else "lm_head.weight"]


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
    """Shapes of the convolutions of q, k, v, which have no bias in any published model."""
    names = zip("qkv", widths, strict=True) if config["use_short_conv"] else ()
    return {f"{name}_conv1d.weight": (width, 1, config["conv_size"]) for name, width in names}


def delta_rule(q, k, v, beta, decay, p, config, gate=silu):
    """S <- decay S + beta k (v - k^T decay S)^T, read by q; q, k, v (T, H, .), beta and decay (T, H).

    Then the norm of each head, gated where the layer has a gate, and the projection back; p has them, `gate` is of (T, HV).
    """
    o = np.zeros(v.shape)
    for h in range(v.shape[1]):
        s = np.zeros((k.shape[2], v.shape[2]))
        for t in range(len(v)):
            s = decay[t, h] * s
            s = s + beta[t, h] * np.outer(k[t, h], v[t, h] - k[t, h] @ s)
            o[t, h] = q[t, h] @ s / np.sqrt(k.shape[2])
    o = rms_norm(o, p["o_norm.weight"], config["norm_eps"]).reshape(len(v), -1)
    return (o if gate is None else o * gate) @ p["o_proj.weight"].T
