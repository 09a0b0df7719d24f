"""Reports of states are what NumPy makes of them; pictures show what they are given."""

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from mixer_cases import DIM
from oracles.common import sigmoid, silu, softplus
from probing import BATCH, LENGTH, TOKENS, attend, convolved, draw
from recurrax import probes
from recurrax.mixers import (
    GLA,
    LRU,
    LSSL,
    Attention,
    DeltaNet,
    GatedDeltaNet,
    Lightning,
    LinearAttention,
    Mamba,
    RetNet,
)
from recurrax.models import LanguageModel, LanguageModelConfig


def test_effective_rank():
    orthogonal = np.linalg.qr(draw(6, 6))[0]
    for rank in (1, 3, 6):
        assert probes.effective_rank(orthogonal[:, :rank] @ orthogonal[:rank]) == pytest.approx(rank)
    sizes = np.array([0.7, 0.2, 0.1])
    states = np.stack([orthogonal[:, :3] @ np.diag(5 * sizes) @ orthogonal[:3], np.zeros((6, 6))])
    want = [np.exp(-(sizes * np.log(sizes)).sum()), 0]
    np.testing.assert_allclose(probes.effective_rank(states), want, atol=1e-6)


def report_of(config):
    """One layer's figures in a model, its parameters there, and its marked arrays."""
    model = LanguageModel(LanguageModelConfig(dim=DIM, num_layers=1, pattern=(config,), projection=None, vocab_size=11))
    params = jax.jit(model.init)(jax.random.key(2), TOKENS)
    report = probes.state_report(model, params, TOKENS)
    (attention,) = probes.implicit_attention(model, params, TOKENS)
    mixer = next(iter(params["params"]["backbone"]["groups"].values()))["mixer"]
    return report, attention, {name: np.asarray(value[0], np.float64) for name, value in mixer.items()}


def test_report_of_fixed_decays():
    report, attention, _ = report_of(RetNet(num_heads=2))
    (layer,) = report.layers
    gamma = 1 - 2.0 ** -np.array([5, 6])
    np.testing.assert_allclose(layer.half_life, np.stack(3 * [np.log(2) / -np.log(gamma)]), rtol=1e-5)
    np.testing.assert_allclose(np.unique(layer.eigenvalues["decay"]), gamma, rtol=1e-6)
    # Reach, summed one by one.
    total, sums = np.zeros(2), np.zeros(2)
    for _, e, t, s in np.ndindex(*attention.matrix.shape):
        weight = np.abs(attention.matrix[_, e, t, s])
        total[e // 8] += weight
        sums[e // 8] += weight * (t - s)
    np.testing.assert_allclose(layer.reach, sums / total, rtol=1e-5)
    assert layer.effective_rank.shape == (2,)
    assert ((layer.effective_rank > 1) & (layer.effective_rank <= 4)).all()
    assert layer.saturation == {}
    assert str(report).splitlines()[2].startswith("| 0_retnet | ")
    assert {line.count("|") for line in str(report).splitlines()} == {7}


def test_report_of_fixed_transitions():
    (layer,), _, p = (out if i else out.layers for i, out in enumerate(report_of(LRU(state_dim=7))))
    want = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    np.testing.assert_allclose(layer.eigenvalues["transition"], want, rtol=1e-5)
    lives = np.sort(np.log(2) / np.exp(p["nu_log"]))
    np.testing.assert_allclose(layer.half_life[:, 0], lives[[0, 3, 6]], rtol=1e-4)
    assert layer.effective_rank is None

    (layer,), _, p = (out if i else out.layers for i, out in enumerate(report_of(LSSL(state_dim=3))))
    dt, a = np.exp(p["log_dt"])[:, None], -np.exp(p["log_a"])  # a triangular matrix has them on its diagonal
    want = np.sort((1 + dt * a / 2) / (1 - dt * a / 2), axis=1)
    np.testing.assert_allclose(np.sort(layer.eigenvalues["transition"].real, axis=1), want, atol=1e-5)
    assert layer.eigenvalues["transition"].shape == (DIM, 3)


def test_report_of_decays_that_look_at_the_input():
    _, marks, p, x = attend(Mamba(width=5, state_dim=3, dt_rank=2))
    before = np.einsum("tse,bse->bte", convolved(p["conv_u"]), x @ p["in_u"]) + p["conv_u_bias"]
    dt = softplus((silu(before) @ p["select_kernel"])[..., :2] @ p["dt_kernel"] + p["dt_bias"])
    np.testing.assert_allclose(marks["step"][0][..., None] * marks["rate"][0], -dt[..., None] * np.exp(p["a_log"]))
    (layer,) = report_of(Mamba(width=5, state_dim=3, dt_rank=2))[0].layers
    assert layer.eigenvalues["decay"].shape == (BATCH, LENGTH, 5, 3)
    lives = np.sort(np.log(2) / -np.log(layer.eigenvalues["decay"].ravel()))
    np.testing.assert_allclose(layer.half_life[1, 0], lives[len(lives) // 2 - 1], rtol=1e-3)


def test_report_of_delta_rules_and_gates():
    config = DeltaNet(num_heads=2, negative_eigenvalues=True)
    _, marks, p, x = attend(config)
    want = 2 * sigmoid(x @ p["in_beta"])
    np.testing.assert_allclose(marks["beta"][0], want)
    (layer,) = report_of(config)[0].layers
    assert layer.eigenvalues["delta"].shape == (BATCH, LENGTH, 2)
    assert layer.eigenvalues["delta"].min() < 0 < layer.eigenvalues["delta"].max() <= 1
    assert layer.half_life is None

    config = Lightning(num_heads=2)
    _, marks, p, x = attend(config)
    gate = sigmoid(x @ p["in_gate"])
    np.testing.assert_allclose(marks["output_gate"][0], gate)
    (layer,) = report_of(config)[0].layers
    assert set(layer.saturation) == {"output_gate"}
    assert 0 <= layer.saturation["output_gate"] < 0.5


def test_state_report_omits_what_layers_lack():
    """A report has no entries for quantities that a layer lacks."""
    for config in (Attention(num_heads=2), LinearAttention(num_heads=2)):
        (layer,) = report_of(config)[0].layers
        assert layer.half_life is None
        assert layer.eigenvalues == {}
    (layer,) = report_of(GatedDeltaNet(num_heads=1))[0].layers
    assert set(layer.eigenvalues) == {"decay", "delta"}


def test_pictures():
    layer, *_ = attend(GLA(num_heads=2))
    axes = Figure().subplots(1, 2)
    image = probes.plot_attention(axes[0], layer, labels=list("abcdefghi"))
    np.testing.assert_allclose(image.get_array(), np.abs(layer.matrix[0]).mean(0))
    image = probes.plot_attention(axes[0], layer, sequence=1, head=1)
    np.testing.assert_allclose(image.get_array(), np.abs(layer.matrix[1, 4:]).mean(0))
    probes.plot_eigenvalues(axes[1], np.array([[0.5 + 0.5j, -0.9]]))
    np.testing.assert_allclose(axes[1].collections[0].get_offsets(), [[0.5, 0.5], [-0.9, 0]])
    axes = Figure().subplots()
    probes.plot_eigenvalues(axes, np.array([0.5, -0.5, 0.9, 0.9]))
    assert axes.get_ylabel() == "share"
    for options, message in [
        ({"sequence": 2}, "sequence must be from 0 to 1, got 2"),
        ({"head": 2}, "head must be from 0 to 1, or None for all, got 2"),
        ({"labels": ["a"]}, "labels must be one for each of 9 tokens, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            probes.plot_attention(axes, layer, **options)
