"""Linear recurrences followed by nonlinear projections are universal (Orvieto et al.).

Two halves of the proof are looked at apart. The last state of a linear recurrence holds the sequence: it can be read
back. And a nonlinear projection of the states, which a linear read-out is not, follows a nonlinear system.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from eval.tasks.claims.base import Check, Claim, Findings
from eval.tasks.claims.pictures import panels
from eval.tasks.seeds import TEST_SEED, squared, train
from recurrax.mixers import LRU, lru
from recurrax.ops import diagonal_scan, shift
from recurrax.probes import linear_reconstruction
from recurrax.tasks import Pendulum, SequentialImages
from recurrax.types import Params

SIZES = (8, 16, 32, 64, 128)
"""N, states of the recurrence."""
LENGTHS = (16, 32, 64, 128)
RINGS = (0.0, 0.5, 0.9, 0.99)
"""Least moduli of eigenvalues; the greatest is 0.999."""
WIDTHS = (1, 4, 16, 64)
"""Hidden units of the MLP after the recurrence."""


def reconstruction(budget: str, seeds: tuple[int, ...]) -> dict:
    """Return errors of white noise read back linearly from the last state, relative to its variance, by seed."""
    sizes, lengths = (SIZES, LENGTHS) if budget == "small" else ((*SIZES, 256, 512), (*LENGTHS, 256, 512))

    def errors(num_states, length, low=0.9, phase=2 * np.pi):
        return [_white_noise(num_states, length, low, phase, seed) for seed in seeds]

    return {
        "complex": {str(n): {str(t): errors(n, t) for t in lengths} for n in sizes},
        "real": {str(n): {str(t): errors(n, t, phase=0.0) for t in lengths} for n in sizes},
        "ring": {str(low): errors(64, 64, low) for low in RINGS},
    }


def _white_noise(num_states, length, low, phase, seed):
    rng = np.random.default_rng((seed, num_states, length))
    eigenvalues = ring(rng, num_states, low, phase)
    inputs = rng.standard_normal((8 * num_states + 1000, length, 1))
    states, half = last_states(eigenvalues, inputs), 4 * num_states + 500
    return float(linear_reconstruction(states[:half], inputs[:half], states[half:], inputs[half:]).mean())


def ring(rng: np.random.Generator, num_states: int, low: float, phase: float) -> np.ndarray:
    """Return first eigenvalues of LRU: uniform on the area between the radii `low` and 0.999, phases up to `phase`."""
    moduli = np.sqrt(rng.uniform(low**2, 0.999**2, num_states))
    return moduli * np.exp(1j * rng.uniform(0, phase, num_states))


def last_states(eigenvalues: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return h_T of h_t = lambda h_{t-1} + sqrt(1 - |lambda|^2) u_t as models compute it, complex64, (B, N)."""
    a = eigenvalues.astype(np.complex64)
    gain = np.sqrt(1 - np.abs(a) ** 2)
    return np.asarray(_scan(a, gain * inputs.astype(np.complex64)))


@jax.jit
def _scan(a, x):
    return diagonal_scan(a, x)[1]


@dataclasses.dataclass(frozen=True)
class ReadBack(SequentialImages):
    """Images whose inputs are the last states of a recurrence that has read them, and whose answers are the pixels."""

    num_states: int = 16

    def batch(self, seed, start, size):
        batch = super().batch(seed, start, size)
        a = ring(np.random.default_rng(self.num_states), self.num_states, 0.9, 2 * np.pi)
        states = last_states(a, batch.inputs)
        parts = np.concatenate([states.real, states.imag], axis=-1)
        return batch._replace(inputs=parts, targets=batch.inputs[..., 0], weights=np.ones_like(batch.weights))


def decoders(budget: str, seeds: tuple[int, ...]) -> dict:
    """Return errors on held-out digits read back from N < 64 complex states by a linear map and by an MLP."""
    found = {"linear": {}, "MLP": {}}
    for num_states in (2, 4, 8, 16):
        task = ReadBack(num_states=num_states)
        seen, test = task.batch(0, 0, 4096), task.held_out().batch(TEST_SEED, 0, 352)
        trained = train(
            lambda key, n=num_states: mlp_parameters(key, 2 * n, 256, 64),
            lambda params, batch: squared(mlp(params, batch.inputs) - batch.targets),
            task,
            seeds,
            steps=1500 if budget == "small" else 20_000,
            batch_size=64,
            learning_rate=3e-3,
            weight_decay=0.0,
        )
        answers = np.asarray(jax.vmap(mlp, (0, None))(trained.params, test.inputs))
        spread = np.square(test.targets - test.targets.mean(0)).mean()
        found["MLP"][str(num_states)] = (np.square(answers - test.targets).mean((1, 2)) / spread).tolist()
        pixels = (seen.targets[..., None], test.targets[..., None])
        errors = linear_reconstruction(seen.inputs, pixels[0], test.inputs, pixels[1])
        found["linear"][str(num_states)] = [float(errors.mean())]
    return found


def mlp_parameters(key: jax.Array, inputs: int, hidden: int, outputs: int) -> Params:
    """Return the parameters of `mlp`; entries of both matrices have variance 1 / rows."""
    first, second = jax.random.split(key)
    return {
        "in_kernel": jax.random.normal(first, (inputs, hidden)) / math.sqrt(inputs),
        "in_bias": jnp.zeros(hidden),
        "out_kernel": jax.random.normal(second, (hidden, outputs)) / math.sqrt(hidden),
        "out_bias": jnp.zeros(outputs),
    }


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """Return W_2 gelu(W_1 x + b_1) + b_2."""
    hidden = jax.nn.gelu(shift(x @ params["in_kernel"], params["in_bias"]))
    return shift(hidden @ params["out_kernel"], params["out_bias"])


def driven_pendulum(budget: str, seeds: tuple[int, ...]) -> dict:
    """Return squared errors of an LRU of 32 states with an MLP of several numbers of hidden units, or a linear map."""
    task = Pendulum(length=16 if budget == "small" else 64, force=0.7)
    test = task.batch(TEST_SEED, 0, 1000)
    found = {}
    for width in (None, *WIDTHS):
        trained = train(
            lambda key, width=width: _follower_parameters(key, width),
            lambda params, batch: squared(_follow(params, batch.inputs) - batch.targets),
            task,
            seeds,
            steps=1200 if budget == "small" else 20_000,
            batch_size=64,
            learning_rate=1e-2,
            weight_decay=0.0,
        )
        answers = np.asarray(jax.vmap(_follow, (0, None))(trained.params, test.inputs))
        found["linear" if width is None else str(width)] = np.square(answers - test.targets).mean((1, 2)).tolist()
    seen = task.batch(0, 0, 4000)
    best = np.linalg.lstsq(seen.inputs[..., 0], seen.targets, rcond=None)[0]
    found["best linear map"] = [float(np.square(test.inputs[..., 0] @ best - test.targets).mean())]
    return found


DIM = 16
RECURRENCE = LRU(state_dim=32, r_min=0.5)


def _follower_parameters(key, width):
    keys = jax.random.split(key, 3)
    layer = RECURRENCE.layer(DIM).init(keys[0], jnp.zeros((1, 1, DIM)))["params"]
    params = {"in_kernel": jax.random.normal(keys[1], (1, DIM)), "lru": layer}
    if width is None:
        return {**params, "out_kernel": jax.random.normal(keys[2], (DIM, 1)) / math.sqrt(DIM)}
    return {**params, "mlp": mlp_parameters(keys[2], DIM, width, 1)}


def _follow(params, inputs):
    y, _ = lru(params["lru"], inputs @ params["in_kernel"], None, RECURRENCE)
    return (mlp(params["mlp"], y) if "mlp" in params else y @ params["out_kernel"])[..., 0]


def compare(found: Findings) -> list[Check]:
    """Return the expectations of this claim and whether they hold."""
    checks = []
    if "reconstruction" in found.measurements:
        checks += _of_reconstruction(found.measurements["reconstruction"].values)
    if "decoders" in found.measurements:
        checks += _of_decoders(found.measurements["decoders"].values)
    if "driven-pendulum" in found.measurements:
        checks += _of_pendulum(found.measurements["driven-pendulum"].values)
    return checks


def _of_reconstruction(values):
    rows = values["complex"]
    enough = {(n, t): max(e) for n, row in rows.items() for t, e in row.items() if int(n) >= 2 * int(t)}
    few = {(n, t): min(e) for n, row in rows.items() for t, e in row.items() if 2 * int(n) < int(t)}
    shared = max(enough, key=lambda cell: int(cell[1]))
    real = min(values["real"][shared[0]][shared[1]])
    wide, narrow = (values["ring"][str(low)] for low in (RINGS[-1], RINGS[0]))
    return [
        Check("complex states, N >= 2 T: worst error", "below 0.01", f"{max(enough.values()):.1e}",
              max(enough.values()) < 0.01),
        Check("complex states, 2 N < T: best error", "above 0.1: fewer numbers than the sequence has",
              f"{min(few.values()):.2f}", min(few.values()) > 0.1),
        Check(f"real states, N = {shared[0]}, T = {shared[1]}: best error", "above 0.1: badly conditioned",
              f"{real:.2f}", real > 0.1),
        Check(f"N = T = 64, moduli from {RINGS[-1]} or from {RINGS[0]}", "eigenvalues near the circle read better",
              f"{_mean(wide):.1e}, {_mean(narrow):.1e}", max(wide) < min(narrow)),
    ]  # fmt: skip


def _of_decoders(values):
    lines, curves = ({n: _mean(e) for n, e in values[kind].items()} for kind in ("linear", "MLP"))
    text = ", ".join(f"{lines[n]:.3f} and {curves[n]:.3f} for N = {n}" for n in lines)
    return [
        Check("digits from N complex states, linear map and MLP", "the MLP reads more where states are few", text,
              all(curves[n] < lines[n] for n in list(lines)[:2])),
        Check("digits, error of the MLP against N", "falls",
              ", ".join(f"{e:.3f}" for e in curves.values()), _falls(list(curves.values()))),
    ]  # fmt: skip


def _of_pendulum(values):
    linear, best = _mean(values["linear"]), values["best linear map"][0]
    errors = [_mean(values[str(width)]) for width in WIDTHS]
    return [
        Check("pendulum, LRU and linear read-out", f"not below the best linear map, {best:.3f}", f"{linear:.3f}",
              linear > 0.95 * best),
        Check(f"pendulum, LRU and MLP of {WIDTHS[-1]}", "half of that or less", f"{errors[-1]:.3f}",
              errors[-1] < best / 2),
        Check(f"pendulum, LRU and MLP of {', '.join(map(str, WIDTHS))}", "falls with the width",
              ", ".join(f"{error:.3f}" for error in errors), _falls(errors)),
    ]  # fmt: skip


def _falls(values):
    return all(after < before for before, after in zip(values, values[1:], strict=False))


def _mean(values):
    return sum(values) / len(values)


def draw(figure: Figure, found: Findings) -> None:
    """Draw errors over length, over the ring's radius, of decoders over states and of the pendulum over width."""
    values = {name: found.measurements[name].values for name in EXPERIMENTS if name in found.measurements}
    axes = panels(figure, 4)
    if "reconstruction" in values:
        for kind, style in (("complex", "-o"), ("real", ":s")):
            for i, (n, row) in enumerate(values["reconstruction"][kind].items()):
                label = f"N = {n}, {kind}" if kind == "complex" else None
                axes[0].plot([int(t) for t in row], [_mean(e) for e in row.values()], style, color=f"C{i}", label=label)
        axes[0].set(xscale="log", yscale="log", xlabel="length of the sequence", title="read back from the last state")
        axes[0].legend(fontsize=7, title="dotted: real", title_fontsize=7)
        axes[0].set_xticks([int(t) for t in row], row)
        ring = values["reconstruction"]["ring"]
        axes[1].plot(list(ring), [_mean(e) for e in ring.values()], "-o")
        axes[1].set(yscale="log", xlabel="least modulus of an eigenvalue", title="N = T = 64")
    if "decoders" in values:
        for kind, row in values["decoders"].items():
            axes[2].plot([int(n) for n in row], [_mean(e) for e in row.values()], "-o", label=kind)
        axes[2].set(xscale="log", xlabel="complex states", title="digits of 64 pixels read back")
        axes[2].set_xticks([int(n) for n in row], row)
        axes[2].legend(fontsize=8)
    if "driven-pendulum" in values:
        errors = values["driven-pendulum"]
        axes[3].plot(WIDTHS, [_mean(errors[str(width)]) for width in WIDTHS], "-o", label="MLP")
        axes[3].axhline(_mean(errors["linear"]), color="C1", label="linear read-out")
        axes[3].axhline(errors["best linear map"][0], color="gray", linestyle=":", label="best linear map")
        axes[3].set(xscale="log", yscale="log", xlabel="hidden units", title="driven pendulum", ylabel="squared error")
        axes[3].legend(fontsize=8)
    for axis in axes[:3]:
        axis.set_ylabel("relative squared error")
        axis.minorticks_off()


EXPERIMENTS = {"reconstruction": reconstruction, "decoders": decoders, "driven-pendulum": driven_pendulum}

CLAIM = Claim(
    name="universality",
    title="Linear recurrences followed by nonlinear projections are universal",
    paper="arXiv 2307.11888",
    statement="The last state of a diagonal recurrence, in complex64 and with eigenvalues as LRU starts them, holds "
    "the whole sequence: a linear map reads it back if there are as many numbers in the state, its "
    "eigenvalues are complex and near the unit circle. What is read must not be white noise: an MLP reads "
    "digits from fewer states than a linear map. And LRU followed by an MLP follows a driven pendulum, which "
    "LRU with a linear read-out cannot.",
    compare=compare,
    experiments=EXPERIMENTS,
    draw=draw,
)
