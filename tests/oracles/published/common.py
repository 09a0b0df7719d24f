"""What the published models share."""

import numpy as np


def unit(x):
    """Return x scaled to length 1, up to the constant that the kernels add."""
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


def ends(config, blocks, norm):
    """The shapes of the blocks, each under its place, and of embedding, final norm and head."""
    d, vocab = config["hidden_size"], config["vocab_size"]
    return {
        "model.embeddings.weight": (vocab, d),
        **{f"model.layers.{i}.{name}": shape for i, block in enumerate(blocks) for name, shape in block.items()},
        **{f"model.norm.{name}": (d,) for name in norm},
        **({} if config["tie_word_embeddings"] else {"lm_head.weight": (vocab, d)}),
    }


def head(config, tensors):
    """The matrix (vocab, D) that gives logits; a tied file has no head beside the embedding."""
    return tensors["model.embeddings.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
