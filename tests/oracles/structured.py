"""Time-invariant state spaces: S4D, S5, LSSL, S4, LMU. Every transition is a dense float64 matrix, stepped through."""

import math

import numpy as np

from oracles.common import ACTIVATIONS, each_document, gelu, sigmoid

erf = np.vectorize(math.erf, otypes=[float])


def exact_gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def exponential(a):
    """exp of a matrix, by its eigenvectors."""
    values, vectors = np.linalg.eig(a)
    return vectors @ np.diag(np.exp(values)) @ np.linalg.inv(vectors)


def zoh(a, b, dt):
    """exp(dt A) and A^-1 (exp(dt A) - I) B."""
    a_bar = exponential(dt * a)
    return a_bar, np.linalg.solve(a, (a_bar - np.eye(len(a))) @ b)


def gbt(a, b, dt, alpha=0.5):
    """The generalised bilinear transform (LSSL, eq. 3)."""
    inverse, i = np.linalg.inv(np.eye(len(a)) - alpha * dt * a), np.eye(len(a))
    return inverse @ (i + (1 - alpha) * dt * a), inverse @ (dt * b)


DISCRETIZE = {"zoh": zoh, "bilinear": gbt}


def siso(x, systems, c, skip):
    """y (T, D, M) of a channel after the other: h = A h + B x, y = C h + skip x."""
    y = np.zeros((*x.shape, c.shape[1]))
    for channel, (a, b) in enumerate(systems):
        h = np.zeros(len(b), complex)
        for t, u in enumerate(x[:, channel]):
            h = a @ h + b * u
            y[t, channel] = (c[channel] @ h).real + skip[channel] * u
    return y


def both(v):
    """A vector and its conjugate: the half of the pairs that layers leave out."""
    return np.concatenate([v, v.conj()], -1)


def mixed(p, y):
    z = exact_gelu(y)
    out = z @ p["out_kernel"] + p["output_bias"]
    return out * sigmoid(z @ p["out_gate"] + p["gate_bias"]) if "out_gate" in p else out


@each_document
def s4d(p, x, config):
    """Gu et al. 2022, section 2 and listing 1; both eigenvalues of every pair."""
    a, c = both(-np.exp(p["log_a_real"]) + 1j * p["a_imag"]), both(p["c_real"] + 1j * p["c_imag"])
    dt = config.rate * np.exp(p["log_dt"])
    discretize = DISCRETIZE[config.discretization]
    systems = [discretize(np.diag(row), np.ones(len(row)), step) for row, step in zip(a, dt, strict=True)]
    return mixed(p, siso(x, systems, c[:, None], p["skip"][:, None])[..., 0])


@each_document
def s5(p, x, config):
    """Smith et al. 2022, section 3: one diagonal system of all channels, a step for every state."""
    a, dt = both(-np.exp(p["log_a_real"]) + 1j * p["a_imag"]), config.rate * np.exp(both(p["log_dt"]))
    b, c = both(p["in_real"] + 1j * p["in_imag"]), both((p["out_real"] + 1j * p["out_imag"]).T)
    if config.discretization == "zoh":
        a_bar, scale = np.exp(a * dt), (np.exp(a * dt) - 1) / a
    else:
        a_bar, scale = (1 + a * dt / 2) / (1 - a * dt / 2), dt / (1 - a * dt / 2)
    h, y = np.zeros(len(a), complex), np.zeros(x.shape)
    for t, u in enumerate(x):
        h = a_bar * h + scale * (u @ b)
        y[t] = (c @ h).real + p["skip"] * u
    g = gelu(y)
    if config.activation == "gelu":
        return g
    gate = sigmoid(g @ p["gate_kernel"] + p["gate_bias"])
    if config.activation == "half_glu1":
        return g * gate
    return gate * (y if config.activation == "half_glu2" else g @ p["value_kernel"] + p["value_bias"])


@each_document
def lssl(p, x, config):
    """Gu et al. 2021, sections 3 and 4: A of HiPPO-LegS's structure, M outputs per feature."""
    a = -np.diag(np.exp(p["log_a"]))
    for i in range(len(a)):
        for j in range(i):
            a[i, j] = -p["a_left"][i] * p["a_right"][j]
    systems = [gbt(a, p["b"], config.rate * step, config.alpha) for step in np.exp(p["log_dt"])]
    return mixed(p, siso(x, systems, p["c"], p["skip"]).reshape(len(x), -1))


@each_document
def s4(p, x, config):
    """Gu et al. 2021, section 3: A = Lambda - P P^*, written out for both halves of the pairs, and bilinear steps."""
    eigenvalues = both(-np.exp(p["log_a_real"]) + 1j * p["a_imag"])
    low_rank, b, c = (both(p[f"{name}_real"] + 1j * p[f"{name}_imag"]) for name in "pbc")
    systems = [
        gbt(np.diag(row) - np.outer(v, v.conj()), column, config.rate * np.exp(step))
        for row, v, column, step in zip(eigenvalues, low_rank, b, p["log_dt"], strict=True)
    ]
    return mixed(p, siso(x, systems, c[:, None], p["skip"][:, None])[..., 0])


@each_document
def lmu(p, x, config):
    """Voelker et al. 2019, eq. 1 and 2; Chilkuri and Eliasmith 2021, section 3.1."""
    n, theta = config.order, config.theta
    a, b = np.zeros((n, n)), np.zeros(n)
    for i in range(n):
        b[i] = (2 * i + 1) / theta * (-1) ** i
        for j in range(n):
            a[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1.0) ** (i - j + 1))
    a_bar, b_bar = (value.real for value in zoh(a, b, 1.0))
    us = ACTIVATIONS[config.memory_activation](x @ p["in_memory"] + p["memory_bias"])
    m, y = np.zeros((us.shape[1], n)), np.zeros(x.shape)
    for t, u in enumerate(us):
        m = m @ a_bar.T + u[:, None] * b_bar
        y[t] = m.reshape(-1) @ p["out_memory"] + x[t] @ p["out_input"] + p["output_bias"]
    return ACTIVATIONS[config.activation](y)
