"""Compute the ops with matrix states and their gradients, step by step."""

import numpy as np


def linear_attention(inputs, scale=None, cotangents=None):
    """S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T."""

    def step(x, t, state):
        return state + outer(x["k"][:, t], x["v"][:, t])

    def back(x, t, before, d_state, d):
        d["k"][:, t], d["v"][:, t] = apply(d_state, x["v"][:, t]), apply_transposed(d_state, x["k"][:, t])
        return d_state

    return _recur(inputs, scale, cotangents, step, back)


def delta_rule(inputs, scale=None, cotangents=None):
    """`delta_product` with one step per token."""
    several = {name: inputs[name][:, :, None] if name in ("k", "v", "beta") else inputs[name] for name in inputs}
    o, state, gradients = delta_product(several, scale, cotangents)
    return o, state, {n: g[:, :, 0] if n in ("k", "v", "beta") else g for n, g in gradients.items()}


def delta_product(inputs, scale=None, cotangents=None):
    """S = diag(e^{g_t}) S_{t-1}, then S = S + b_r k_r (v_r - S^T k_r)^T for r = 1 ... R."""
    steps = range(inputs["k"].shape[2])

    def write(x, t, r, state):
        k, v, beta = (x[name][:, t, r] for name in ("k", "v", "beta"))
        return state + outer(beta[..., None] * k, v - apply_transposed(state, k))

    def step(x, t, state):
        for r in steps:
            state = write(x, t, r, state)
        return state

    def back(x, t, decayed, d_state, d):
        states = [decayed]
        for r in steps:
            states.append(write(x, t, r, states[-1]))
        for r in reversed(steps):
            k, v, beta = (x[name][:, t, r] for name in ("k", "v", "beta"))
            error, read = v - apply_transposed(states[r], k), apply_transposed(d_state, k)
            d["beta"][:, t, r] = (read * error).sum(-1)
            d["v"][:, t, r] = beta[..., None] * read
            d["k"][:, t, r] = beta[..., None] * (apply(d_state, error) - apply(states[r], read))
            d_state = d_state - outer(beta[..., None] * k, read)
        return d_state

    return _recur(inputs, scale, cotangents, step, back)


def dplr_rule(inputs, scale=None, cotangents=None):
    """S_t = diag(e^{g_t}) S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T; a reads nothing where there is a reset."""

    def read(x, t, before):
        return apply_transposed(before, x["a"][:, t])

    def step(x, t, decayed, before):
        return decayed + outer(x["b"][:, t], read(x, t, before)) + outer(x["k"][:, t], x["v"][:, t])

    def back(x, t, before, d_state, d):
        k, v, a, b = (x[name][:, t] for name in "kvab")
        d["k"][:, t], d["v"][:, t] = apply(d_state, v), apply_transposed(d_state, k)
        d["b"][:, t] = apply(d_state, read(x, t, before))
        d_read = apply_transposed(d_state, b)
        d["a"][:, t] = apply(before, d_read)
        return d_state, outer(a, d_read)

    return _recur(inputs, scale, cotangents, step, back, reads_before=True)


def outer(x, y):
    return x[..., :, None] * y[..., None, :]


def apply(state, y):
    """S y over value channels."""
    return np.einsum("...kv,...v->...k", state, y)


def apply_transposed(state, x):
    """S^T x over key channels."""
    return np.einsum("...kv,...k->...v", state, x)


def _recur(inputs, scale, cotangents, step, back, reads_before=False):
    """Run decay, the family's own `step` and the read for each token; then their gradients, with its own `back`."""
    reset = inputs.get("reset")
    x = {n: np.asarray(v, np.float64) for n, v in inputs.items() if v is not None and n != "reset"}
    batch, length, heads, key = x["k"].shape[:2] + x["k"].shape[-2:]
    value, queries = x["v"].shape[-1], x["q"].reshape(batch, length, heads, -1, key)
    scale = key**-0.5 if scale is None else scale
    gates = x.get("log_decay")
    factor = np.ones((batch, length, heads, 1)) if gates is None else np.exp(gates.reshape(batch, length, heads, -1))

    def incoming(t, state):
        return state if reset is None else np.where(np.asarray(reset)[:, t, None, None, None], 0.0, state)

    state = x.get("state", np.zeros((batch, heads, key, value)))
    states, o = [state], np.zeros((*queries.shape[:4], value))
    for t in range(length):
        before = incoming(t, state)
        decayed = factor[:, t, :, :, None] * before
        state = step(x, t, decayed, before) if reads_before else step(x, t, decayed)
        o[:, t] = scale * np.einsum("bhgk,bhkv->bhgv", queries[:, t], state)
        states.append(state)
    o = o.reshape(*x["q"].shape[:3], value)
    if cotangents is None:
        return o, state, {}

    d_o, d_state = (np.asarray(c, np.float64) for c in cotangents)
    d_o, d = d_o.reshape(*queries.shape[:4], value), {name: np.zeros(array.shape) for name, array in x.items()}
    d_queries, d_gates = np.zeros(queries.shape), np.zeros(factor.shape)
    for t in reversed(range(length)):
        before = incoming(t, states[t])
        decayed = factor[:, t, :, :, None] * before
        d_queries[:, t] = scale * np.einsum("bhkv,bhgv->bhgk", states[t + 1], d_o[:, t])
        d_state = d_state + scale * np.einsum("bhgk,bhgv->bhkv", queries[:, t], d_o[:, t])
        if reads_before:
            d_state, d_before = back(x, t, before, d_state, d)
        else:
            d_state, d_before = back(x, t, decayed, d_state, d), 0.0
        d_factor = (d_state * decayed).sum(-1)
        d_gates[:, t] = d_factor if factor.shape[-1] > 1 else d_factor.sum(-1, keepdims=True)
        d_state = incoming(t, factor[:, t, :, :, None] * d_state + d_before)
        states.pop()  # of long sequences they are the larger part of what is held
    d["q"] = d_queries.reshape(x["q"].shape)
    if gates is not None:
        d["log_decay"] = d_gates.reshape(gates.shape)
    d["state"] = d_state
    return o, state, d
