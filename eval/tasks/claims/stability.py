"""Gates and norms: gradients without a bound, and lengths that were never trained on (TransNormer, GLA)."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from eval.tasks.claims.base import Check, Claim, Findings, all_pairs, mean
from eval.tasks.claims.pictures import panels, styles
from recurrax.mixers.parts import rms_norm

DECAYED = ("GLA", "RetNet", "Mamba")
UNDECAYED = ("LinearAttention", "TransNormer")
PAIRS = all_pairs({"language": (*DECAYED, *UNDECAYED)})
EPS = 1e-5
"""Of the norm."""
SIZES = [10.0**-power for power in range(8)]
"""Of the scores, whose gradients are taken."""


def gradients(budget: str, seeds: tuple[int, ...]) -> dict:
    """Greatest |d o / d s| over scores s > 0 and outputs o, where s has a given size: by size and seed."""
    length, width = (16, 8) if budget == "small" else (256, 64)

    def normalised(s, values):
        return (s @ values) / s.sum()

    def normed(s, values):
        return rms_norm(s @ values, eps=EPS)

    found = {"divided by their sum": {}, "normed": {}}
    for size in SIZES:
        for name, output in zip(found, (normalised, normed), strict=True):
            found[name][str(size)] = each = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                scores, values = size * rng.uniform(size=length), rng.standard_normal((length, width))
                slopes = jax.jacobian(output)(jnp.asarray(scores, jnp.float32), jnp.asarray(values, jnp.float32))
                each.append(float(jnp.abs(slopes).max()))
    return found


def compare(found: Findings) -> list[Check]:
    """What of it came true."""
    checks = []
    if "gradients" in found.measurements:
        divided, normed = (
            {float(size): max(each) for size, each in row.items()}
            for row in found.measurements["gradients"].values.values()
        )
        small, smaller = SIZES[-3], SIZES[-1]
        growth = divided[smaller] / divided[small]
        checks += [
            Check("gradient by scores that are divided by their sum, when they shrink 100-fold", "grows 100-fold",
                  f"{growth:.0f}-fold, to {divided[smaller]:.1e}", 90 < growth < 110),
            Check("gradient by scores whose sum is normed, at any size", f"below 4 / sqrt(eps), {BOUND:.0f}",
                  f"{max(normed.values()):.0f} at most", max(normed.values()) < BOUND),
        ]  # fmt: skip
    rows = {mixer: found.results[pair] for pair in PAIRS if pair in found.results for mixer in pair[1:]}
    if {"LinearAttention", "TransNormer"} <= rows.keys():
        rough = {name: np.mean(rows[name].scores.roughness) for name in ("LinearAttention", "TransNormer")}
        checks.append(
            Check("unsteadiness of the gradient's norm in training, language", "linear attention more than TransNormer",
                  f"{rough['LinearAttention']:.2f}, {rough['TransNormer']:.2f}",
                  rough["LinearAttention"] > rough["TransNormer"])
        )  # fmt: skip
    for mixer, row in rows.items():
        checks.append(_extrapolation(mixer, row))
    return checks


BOUND = 4 / np.sqrt(EPS)
"""Values are standard normal: few are above 4."""


def _extrapolation(mixer, row):
    trained, longest = row.setting.task.length, max(row.setting.lengths)
    rise = mean(row, longest, "nats") - mean(row, trained, "nats")
    what = f"{mixer}: nats per byte at {longest}, less those at {trained}, which was trained"
    if mixer in DECAYED:
        return Check(what, "0 or less: it decays, and more context helps", f"{rise:+.3f}", rise <= 0.01)
    return Check(what, "above 0: nothing decays", f"{rise:+.3f}", rise > 0.01)


def draw(figure: Figure, found: Findings) -> None:
    """Gradients over the size of scores, nats over length."""
    axes = panels(figure, 2)
    if "gradients" in found.measurements:
        for name, row in found.measurements["gradients"].values.items():
            axes[0].plot([float(size) for size in row], [max(each) for each in row.values()], "-o", label=name)
        axes[0].set(xscale="log", yscale="log", xlabel="size of the scores", ylabel="greatest gradient")
        axes[0].legend(fontsize=8)
    rows = [found.results[pair] for pair in PAIRS if pair in found.results]
    style = styles(row.mixer for row in rows)
    for row in rows:
        lengths = row.setting.lengths
        color, marker = style[row.mixer]
        axes[1].plot(lengths, [mean(row, t, "nats") for t in lengths], marker=marker, color=color, label=row.mixer)
        axes[1].axvline(row.setting.task.length, color="gray", linewidth=0.5)
    axes[1].set(xscale="log", xlabel="length (vertical line: trained)", ylabel="nats per byte", title="language")
    if rows:
        axes[1].set_xticks(lengths, [str(length) for length in lengths])
        axes[1].minorticks_off()
        axes[1].legend(fontsize=8)


CLAIM = Claim(
    name="stability",
    title="Norms bound gradients, decays carry beyond the trained length",
    paper="arXiv 2210.10340, 2312.06635",
    statement="Attention whose scores are divided by their sum has gradients like 1 / score, without a bound; a norm "
    "of the sum instead has a bound. And a state that forgets nothing meets, beyond the trained length, sums "
    "that it has never seen: its loss rises there, that of layers with decays does not.",
    tried="only this: 300 steps on text, with the gradient clipped by its norm; the unsteadiness is that of the norm "
    "before clipping.",
    compare=compare,
    pairs=PAIRS,
    experiments={"gradients": gradients},
    draw=draw,
)
