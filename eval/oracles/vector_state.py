"""Compute the ops with vector states and their gradients, step by step."""

import numpy as np


def diagonal_scan(inputs, cotangents=None, reverse=False):
    """h_t = a_t h_{t-1} + x_t, for a (B, T, *D) or (*D,); with `reverse` h_t = a_t h_{t+1} + x_t."""
    x, reset = _arrays(inputs)
    dtype = np.result_type(*x.values())
    x = {n: v.astype(dtype) for n, v in x.items()}
    h, last = np.zeros(x["x"].shape, dtype), x.get("h0", np.zeros(x["x"][:, 0].shape, dtype))
    keep = (1.0 - reset).reshape(*reset.shape, *(1,) * (h.ndim - 2))
    factor = keep * x["a"]
    before, steps = np.zeros_like(h), range(h.shape[1])[:: -1 if reverse else 1]
    for t in steps:
        before[:, t] = last
        last = h[:, t] = np.where(keep[:, t] == 0, 0, factor[:, t] * last) + x["x"][:, t]
    if cotangents is None:
        return h, last, {}

    d_h, d_last = (np.asarray(c).astype(dtype) for c in cotangents)
    d_x = np.zeros_like(h)
    for t in reversed(steps):
        d_x[:, t] = d_h[:, t] + d_last
        d_last = factor[:, t] * d_x[:, t]
    d_a = keep * d_x * before
    d_a = d_a if x["a"].ndim == h.ndim else d_a.sum((0, 1))
    return h, last, _given(inputs, {"a": d_a, "x": d_x, "h0": d_last})


def selective_scan(inputs, cotangents=None):
    """h_t = e^{dt_t a} h_{t-1} + (dt_t x_t) b_t^T, y_t = h_t c_t."""
    arrays, reset = _arrays(inputs)
    x, dt, a, b, c = (arrays[n] for n in ("x", "dt", "a", "b", "c"))
    h = arrays.get("state", np.zeros((len(x), *a.shape)))
    y, before = np.zeros(x.shape), np.zeros((*x.shape, a.shape[1]))

    def after(t):
        return np.exp(dt[:, t, :, None] * a) * before[:, t] + (dt * x)[:, t, :, None] * b[:, t, None, :]

    for t in range(x.shape[1]):
        before[:, t] = np.where(reset[:, t, None, None], 0, h)
        h = after(t)
        y[:, t] = np.einsum("ben,bn->be", h, c[:, t])
    if cotangents is None:
        return y, h, {}

    g, d = (np.asarray(c, np.float64) for c in cotangents)
    dx, ddt, da, db, dc = (np.zeros(array.shape) for array in (x, dt, a, b, c))
    for t in reversed(range(x.shape[1])):
        decay = np.exp(dt[:, t, :, None] * a)
        d = d + g[:, t, :, None] * c[:, t, None, :]
        dc[:, t] = np.einsum("be,ben->bn", g[:, t], after(t))
        db[:, t] = np.einsum("ben,be->bn", d, (dt * x)[:, t])
        drive = np.einsum("ben,bn->be", d, b[:, t])
        dlog = d * before[:, t] * decay
        dx[:, t] = drive * dt[:, t]
        ddt[:, t] = drive * x[:, t] + (dlog * a).sum(-1)
        da += (dlog * dt[:, t, :, None]).sum(0)
        d = np.where(reset[:, t, None, None], 0, decay * d)
    return y, h, _given(inputs, {"x": dx, "dt": ddt, "a": da, "b": db, "c": dc, "state": d})


def state_space(inputs, cotangents=None):
    """h_t = A h_{t-1} + b x_t, y_t = Re(c h_t), for a = log A (D, N) or a = A - I (D, N, N)."""
    arrays, reset = _arrays(inputs)
    x, a, b, c = (arrays[n] for n in ("x", "a", "b", "c"))
    dense = a.ndim == 3
    h = arrays.get("state", np.zeros((len(x), *b.shape)))
    h = h.astype(np.result_type(a, b, c, h))
    y, before = np.zeros((*x.shape, c.shape[1])), np.zeros((*x.shape, b.shape[1]), h.dtype)
    transition = np.eye(b.shape[1]) + a if dense else np.exp(a)

    def after(t):
        decayed = np.einsum("dmn,bdn->bdm", transition, before[:, t]) if dense else transition * before[:, t]
        return decayed + b * x[:, t, :, None]

    for t in range(x.shape[1]):
        before[:, t] = np.where(reset[:, t, None, None], 0, h)
        h = after(t)
        y[:, t] = np.einsum("dmn,bdn->bdm", c, h).real
    if cotangents is None:
        return y, h, {}

    g, d = (np.asarray(c) for c in cotangents)
    d = d.astype(np.result_type(h, np.float64))
    dx, da, db, dc = np.zeros(x.shape), *(np.zeros(array.shape, h.dtype) for array in (a, b, c))
    for t in reversed(range(x.shape[1])):
        d = d + np.einsum("bdm,dmn->bdn", g[:, t], c)
        dc += np.einsum("bdm,bdn->dmn", g[:, t], after(t))
        db += np.einsum("bdn,bd->dn", d, x[:, t])
        dx[:, t] = np.einsum("bdn,dn->bd", d, b).real
        if dense:
            da += np.einsum("bdm,bdn->dmn", d, before[:, t])
            d = np.einsum("dmn,bdm->bdn", transition, d)
        else:
            da += (d * transition * before[:, t]).sum(0)
            d = transition * d
        d = np.where(reset[:, t, None, None], 0, d)
    return y, h, _given(inputs, {"x": dx, "a": da, "b": db, "c": dc, "state": d})


def _arrays(inputs):
    """Return the arrays by name in float64 or complex128, and the resets, all False if there are none."""
    arrays = {n: np.asarray(v) for n, v in inputs.items() if v is not None and n != "reset"}
    arrays = {n: v.astype(np.complex128 if np.iscomplexobj(v) else np.float64) for n, v in arrays.items()}
    reset = inputs.get("reset")
    return arrays, np.zeros(arrays["x"].shape[:2], bool) if reset is None else np.asarray(reset)


def _given(inputs, gradients):
    """Return the gradients of the inputs that were given, real for real inputs."""
    given = {name: gradient for name, gradient in gradients.items() if inputs.get(name) is not None}
    return {name: g if np.iscomplexobj(inputs[name]) else g.real for name, g in given.items()}
