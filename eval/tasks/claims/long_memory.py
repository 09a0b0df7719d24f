"""Long memory: state spaces beside LSTM and GRU, HiPPO beside random transitions, other sampling rates."""

import dataclasses

import jax
import numpy as np
from matplotlib.figure import Figure

from eval.tasks import models
from eval.tasks.claims.base import Check, Claim, Findings, all_pairs, mean
from eval.tasks.claims.pictures import dots, panels, styles
from eval.tasks.measure import fit, scores
from eval.tasks.suite import SUITE

STATE_SPACES = ("S4", "S5", "LRU")
GATED = ("LSTM", "GRU")
HIPPO, RANDOM = "S4D-LegS", "S4D-random"
PAIRS = all_pairs(
    {"digits-pixel": (*STATE_SPACES, *GATED, HIPPO, RANDOM), "adding": (*STATE_SPACES, *GATED)},
)
RESCALED = ("S4D", "S5", "LSSL")
"""Layers with a step size."""


def sampling_rate(budget: str, seeds: tuple[int, ...]) -> dict:
    """Accuracy by seed on signals as in training, and on signals sampled half as often: as it is, and rescaled."""
    setting, found = SUITE["oscillation"][budget], {}
    length = setting.task.length
    halved = dataclasses.replace(setting.task, length=length // 2, spacing=2 * setting.task.spacing)
    halved = dataclasses.replace(setting, task=halved, lengths=(length // 2,))
    for name in (*RESCALED, "GRU"):
        (config,) = models.PATTERNS[name]
        model = models.model_for(setting, (config,))
        params = fit(setting, model, seeds).params
        found[name] = {
            "trained": scores(model, params, setting, length)["score"],
            "half the rate": scores(model, params, halved, length // 2)["score"],
        }
        if name in RESCALED:
            config = dataclasses.replace(config, rate=2 * config.rate)
            model = models.model_for(setting, (config,))
            found[name]["rescaled"] = scores(model, params, halved, length // 2)["score"]
        jax.clear_caches()
    return found


def compare(found: Findings) -> list[Check]:
    """What of it came true."""
    checks = []
    for task in ("digits-pixel", "adding"):
        rows = {mixer: found.results[task, mixer] for of, mixer in PAIRS if of == task and (of, mixer) in found.results}
        checks += _beside_gated(rows) if task == "digits-pixel" else _solved(rows)
        if {HIPPO, RANDOM} <= rows.keys():
            legs, random = mean(rows[HIPPO]), mean(rows[RANDOM])
            checks.append(
                Check(f"{task}: S4D from HiPPO and from random eigenvalues", "HiPPO is better by 0.01 or more",
                      f"{legs:.3f}, {random:.3f}", legs > random + 0.01)
            )  # fmt: skip
    if "sampling-rate" in found.measurements:
        checks += _of_rates(found.measurements["sampling-rate"].values)
    return checks


def _beside_gated(rows):
    """State spaces against the better of LSTM and GRU, by their means."""
    gated = {name: mean(rows[name]) for name in GATED if name in rows}
    if not gated:
        return []
    name = max(gated, key=gated.get)
    return [
        Check(f"{mixer} on digits-pixel", f"above {name}, {gated[name]:.3f}", f"{score:.3f}", score > gated[name])
        for mixer, score in _means(rows)
    ]


def _solved(rows):
    """At lengths that are tried here LSTM and GRU add as well: errors are compared with chance, not with theirs."""
    return [
        Check(f"{mixer} on adding", "squared error below 0.01; chance is 0.167", f"{score:.4f}", score < 0.01)
        for mixer, score in _means(rows)
    ]


def _means(rows):
    return [(mixer, mean(rows[mixer])) for mixer in STATE_SPACES if mixer in rows]


def _of_rates(values):
    checks = []
    for name, row in values.items():
        trained, halved = np.mean(row["trained"]), np.mean(row["half the rate"])
        what = f"{name} on oscillations sampled half as often"
        checks.append(Check(f"{what}, as it is", f"below half of {trained:.3f}", f"{halved:.3f}", halved < trained / 2))
        if "rescaled" in row:
            rescaled = np.mean(row["rescaled"])
            theory = f"nearer to {trained:.3f} than to {halved:.3f}"
            agrees = rescaled > (trained + halved) / 2
            checks.append(Check(f"{what}, steps doubled", theory, f"{rescaled:.3f}", agrees))
    return checks


def draw(figure: Figure, found: Findings) -> None:
    """Scores on the two tasks, and at the two rates."""
    axes = panels(figure, 3)
    for axis, task in zip(axes, ("digits-pixel", "adding"), strict=False):
        rows = [found.results[pair] for pair in PAIRS if pair[0] == task and pair in found.results]
        if rows:
            dots(axis, rows, styles(row.mixer for row in rows))
        axis.set_title(task, fontsize=11)
    if "sampling-rate" in found.measurements:
        values = found.measurements["sampling-rate"].values
        for i, kind in enumerate(("trained", "half the rate", "rescaled")):
            names = [name for name, row in values.items() if kind in row]
            places = np.array([list(values).index(name) for name in names])
            axes[2].bar(places + 0.27 * (i - 1), [np.mean(values[name][kind]) for name in names], 0.25, label=kind)
        axes[2].set_xticks(range(len(values)), list(values))
        axes[2].set(title="oscillations", ylabel="accuracy")
        axes[2].legend(fontsize=8)


CLAIM = Claim(
    name="long-memory",
    title="Long memory is in the transitions that training starts from",
    paper="arXiv 2111.00396, 2208.04933, 2303.06349, 2110.13985",
    statement="State spaces tell digits read pixel by pixel better than LSTM and GRU, better from HiPPO's eigenvalues "
    "than from random ones, and add two numbers of a sequence. They read signals sampled at half the rate once their "
    "step sizes are doubled; as they are they cannot, nor can a GRU.",
    tried="LSSL steps by the bilinear rule, which bends frequencies the more the larger the step; with three times the "
    "noise all three read less, 0.76, 0.74 and 0.49 after doubling.",
    compare=compare,
    pairs=PAIRS,
    experiments={"sampling-rate": sampling_rate},
    draw=draw,
)
