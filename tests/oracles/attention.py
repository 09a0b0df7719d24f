"""Softmax attention."""

import numpy as np

from oracles.common import each_document, rms_norm, sigmoid


@each_document
def attention(p, x, config):
    """softmax over the tokens of the same document that the window reaches; rotary turns as complex multiplication."""
    length, heads = len(x), config.num_heads
    head_dim = p["in_q"].shape[1] // heads
    share = heads // (p["in_k"].shape[1] // head_dim)
    window = length if config.window is None else config.window
    pairs = int(config.rotary_fraction * head_dim) // 2
    turn = np.exp(1j * config.rotary_base ** (-np.arange(pairs) / max(pairs, 1)))

    def rotated(vector, position):
        """Channels (i, i + pairs) as one complex number, turned `position` times; the others as they are."""
        pair = (vector[:pairs] + 1j * vector[pairs : 2 * pairs]) * turn**position
        return np.concatenate([pair.real, pair.imag, vector[2 * pairs :]])

    def projected(name, vector):
        """All heads of q or k, normed."""
        z = vector @ p[f"in_{name}"]
        if config.qk_norm == "all":
            return rms_norm(z, p[f"{name}_norm_scale"], config.norm_eps)
        if config.qk_norm == "head":
            heads_of = z.reshape(-1, head_dim)
            return np.concatenate([rms_norm(one, p[f"{name}_norm_scale"], config.norm_eps) for one in heads_of])
        return z

    y = np.zeros(x.shape)
    for t in range(length):
        visible = range(max(0, t - window + 1), t + 1)
        out = []
        for h in range(heads):
            own, shared = slice(h * head_dim, (h + 1) * head_dim), h // share * head_dim
            shared = slice(shared, shared + head_dim)
            q = rotated(projected("q", x[t])[own], t)
            scores = [q @ rotated(projected("k", x[s])[shared], s) / np.sqrt(head_dim) for s in visible]
            weights = np.exp(scores - np.max(scores))
            values = [(x[s] @ p["in_v"])[shared] for s in visible]
            out.append(weights @ np.array(values) / weights.sum())
        o = np.concatenate(out)
        if config.output_gate:
            o = o * sigmoid(x[t] @ p["in_gate"])
        y[t] = o @ p["out_kernel"] + p.get("bias", 0)
    return y


@each_document
def latent_attention(p, x, config):
    """DeepSeek-V2, section 2.1, with keys and values written out: one head and one pair of tokens at a time."""
    heads, (k, r, v, _) = config.num_heads, config.sizes(x.shape[1])
    window = len(x) if config.window is None else config.window
    latent = rms_norm(x @ p["in_latent"], p["norm_scale"], config.norm_eps)
    queries = (x @ p["in_q"]).reshape(len(x), heads, k + r)
    keys, values = (latent @ p[f"{name}_kernel"] for name in ("key", "value"))
    keys, values = keys.reshape(len(x), heads, k), values.reshape(len(x), heads, v)

    def turned(vector, position):
        if config.rotary_base is None:
            return vector
        pair = vector[: r // 2] + 1j * vector[r // 2 :]
        pair = pair * np.exp(1j * position * config.rotary_base ** (-np.arange(r // 2) / (r // 2)))
        return np.concatenate([pair.real, pair.imag])

    y = np.zeros(x.shape)
    for t in range(len(x)):
        visible, out = range(max(0, t - window + 1), t + 1), []
        for h in range(heads):
            own, shared = queries[t, h, :k], turned(queries[t, h, k:], t)
            scores = [own @ keys[s, h] + shared @ turned(x[s] @ p["in_shared"], s) for s in visible]
            weights = np.exp(np.array(scores) / np.sqrt(k + r))
            out.append((weights / weights.sum()) @ values[visible, h])
        y[t] = np.concatenate(out) @ p["out_kernel"]
    return y
