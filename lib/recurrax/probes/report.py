"""Report what each layer's state does on given sequences: its rank, its memory, the eigenvalues of its transition.

    effective rank   exp(- sum_i p_i ln p_i), p the singular values of a matrix state over their sum
    half-life        ln 2 / -log a, in tokens, of a decay a
    reach            sum |M_{t,s}| (t - s) / sum |M_{t,s}|, in tokens, of the implicit attention M
    eigenvalues      of the transition from one state to the next
    saturation       share of a sigmoid gate's values below 0.05 or above 0.95

Effective rank is defined by Roy and Vetterli (EUSIPCO 2007); reach is a mean over implicit attention (arXiv 2405.16504)
and exists for layers that are linear in their values. All else is computed from the arrays that a layer's formula marks
(`recurrax.mixers.marks`).
"""

import dataclasses

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Inexact

from recurrax.mixers import MixerConfig
from recurrax.probes import layers
from recurrax.probes.attention import LayerAttention, layer_attention
from recurrax.types import ArrayLike, PyTree, Reset

QUANTILES = (0.1, 0.5, 0.9)
SHUT, OPEN = 0.05, 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class LayerState:
    """One layer's figures; None, or no entry, for what the layer does not have."""

    name: str
    """The number of the block from the bottom, and type of the mixer: "3_gla"."""
    config: MixerConfig
    reach: Float[np.ndarray, " H"] | None
    """Mean distance that a head looks back, in tokens, over all sequences, tokens and channels; None for a layer that
    is not linear in its values."""
    not_linear: str | None
    """Why the layer is not linear in its values; None if it is."""
    effective_rank: Float[np.ndarray, " H"] | None
    """Effective rank of each head's matrix state after the last token, including the column of a normalizer; mean over
    sequences."""
    half_life: Float[np.ndarray, "3 H"] | None
    """The QUANTILES of each head's half-lives over sequences, tokens and channels, in tokens; inf without decay."""
    eigenvalues: dict[str, Inexact[np.ndarray, "..."]]
    """"transition": all eigenvalues of a diagonal or fixed transition, complex; "decay": e^{g} of each token and
    channel; "delta": 1 - beta |k|^2 along the key of each token, 1 + a . b in RWKV-7."""
    saturation: dict[str, float]
    """The share of saturated values by the gate's name: "output_gate", "input_gate" and so on."""


@dataclasses.dataclass(frozen=True, eq=False)
class StateReport:
    """The layers' figures from the bottom; as a string a Markdown table."""

    layers: tuple[LayerState, ...]

    def __str__(self):
        header = ("layer", "reach", "effective rank", "half-life 10/50/90 %", "eigenvalues 10/50/90 %", "saturated")
        rows = [header, ("---", *5 * ("---:",)), *map(_row, self.layers)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def state_report(
    model: nn.Module, params: PyTree, tokens: ArrayLike, *, reset: Reset | None = None, chunk_size: int = 64
) -> StateReport:
    """Return the figures of every mixer while the model reads these sequences.

    A layer that is not linear in its values has no reach; its other figures do not depend on this. Arguments, memory
    and errors are those of `implicit_attention`.
    """
    found = layers.given(model, params, tokens, reset=reset)
    return StateReport(tuple(_report(*layer_attention(layer, reset, chunk_size)) for layer in found))


def effective_rank(states: Float[ArrayLike, "*batch K V"]) -> Float[np.ndarray, "*batch"]:
    """Return exp(- sum p ln p) of the singular values over their sum: from 1 to min(K, V); 0 for a zero matrix."""
    values = np.linalg.svd(np.asarray(states, np.float64), compute_uv=False)
    total = values.sum(-1, keepdims=True)
    p = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    entropy = -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), 0.0)


def reach(attention: LayerAttention) -> Float[np.ndarray, " H"]:
    """Return sum |M| (t - s) / sum |M| of each head; 0 for a head whose matrix is zero.

    Raises:
      ValueError: the layer has no matrix.
    """
    weights = attention.heads.astype(np.float64)
    total = weights.sum((0, 2, 3))
    return np.divide((weights * attention.distance).sum((0, 2, 3)), total, out=np.zeros_like(total), where=total > 0)


def _report(attention, marks):
    eigenvalues = _eigenvalues(marks)
    logs = _log_decays(marks, eigenvalues)
    states = marks.get("matrix_state")
    return LayerState(
        attention.name,
        attention.config,
        reach=None if attention.matrix is None else reach(attention),
        not_linear=attention.reason,
        effective_rank=None if states is None else effective_rank(states[0]).mean(0),
        half_life=None if logs is None else _half_lives(logs, attention.num_heads),
        eigenvalues=eigenvalues,
        saturation={
            name: float(np.mean([(gate < SHUT) | (gate > OPEN) for gate in gates]))
            for name, gates in marks.items()
            if name.endswith("_gate")
        },
    )


def _eigenvalues(marks):
    """Return the eigenvalues of the transition, from whichever marks define it."""
    one = {name: arrays[0] for name, arrays in marks.items()}
    found = {}
    if "eigenvalues" in one:
        found["transition"] = one["eigenvalues"]
    elif "log_eigenvalues" in one:
        found["transition"] = np.exp(one["log_eigenvalues"])
    elif "less_identity" in one:
        found["transition"] = 1 + np.linalg.eigvals(one["less_identity"]).astype(complex)
    elif "log_decay" in one:
        found["decay"] = np.exp(one["log_decay"])
    elif "step" in one:
        found["decay"] = np.exp(one["step"][..., None] * one["rate"])
    if "beta" in one:
        found["delta"] = 1 - one["beta"] * np.square(one["keys"]).sum(-1)
    elif "removal_key" in one:
        found["delta"] = 1 + (one["removal_key"] * one["removal_rate"]).sum(-1)
    return found


def _log_decays(marks, eigenvalues):
    """Return log decays (B, T, E), with B = T = 1 if the transition is the same for all tokens; None without one."""
    if "log_decay" in marks:
        return marks["log_decay"][0]
    if "step" in marks:
        return marks["step"][0][..., None] * marks["rate"][0]
    if "transition" not in eigenvalues:
        return None
    with np.errstate(divide="ignore"):
        return np.log(np.abs(eigenvalues["transition"])).reshape(1, 1, -1)


def _half_lives(log_decay, heads):
    """Return quantiles (3, H), order statistics because half-lives may be infinite."""
    if log_decay[0, 0].size % heads:  # the decays do not belong to heads
        heads = 1
    rates = np.maximum(-log_decay.astype(np.float64), 0).reshape(*log_decay.shape[:2], heads, -1)
    with np.errstate(divide="ignore"):
        lives = np.sort((np.log(2) / rates).transpose(2, 0, 1, 3).reshape(heads, -1), axis=1)
    return np.stack([lives[:, max(0, int(np.ceil(q * lives.shape[1])) - 1)] for q in QUANTILES])


def _row(layer):
    half_life = "" if layer.half_life is None else " / ".join(_each(row) for row in layer.half_life)
    eigenvalues = []
    for name, values in layer.eigenvalues.items():
        if np.iscomplexobj(values):
            name, values = f"modulus of {name}", np.abs(values)
        quantiles = np.quantile(values, QUANTILES, method="inverted_cdf")
        eigenvalues.append(f"{name} " + " / ".join(f"{value:.3f}" for value in quantiles))
    return (
        layer.name,
        "not linear in its values" if layer.reach is None else _each(layer.reach),
        "" if layer.effective_rank is None else _each(layer.effective_rank),
        half_life,
        "; ".join(eigenvalues),
        "; ".join(f"{name.removesuffix('_gate')} {share:.0%}" for name, share in layer.saturation.items()),
    )


def _each(values):
    """Return one number per head, or their range if there are many."""
    if len(values) > 4:
        return f"{values.min():.3g} - {values.max():.3g}"
    return " ".join(f"{value:.3g}" for value in values)
