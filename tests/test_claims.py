"""Claims: verdicts follow from what was measured, claims name what there is, experiments compute what they say."""

import dataclasses

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from eval.tasks import cli, measure, models, page, results
from eval.tasks.claims import CLAIMS, Check, Claim, Findings, base, gradient_descent, recall, stability, universality
from eval.tasks.claims.long_memory import compare as compare_memory
from eval.tasks.seeds import train
from eval.tasks.suite import SUITE
from eval.tasks.text import Language
from recurrax import tasks
from recurrax.mixers import lru

PARITY = {"solve": {"parity": ("DeltaNet-negative",)}, "fail": {"parity": ("DeltaNet",)}}


def result(task, mixer, *scores, nats=(1.0, 1.0), budget="small"):
    """These scores at the greatest length, and at the trained one where that is another; `nats` at the two."""
    setting = SUITE[task]["small"]
    by_length = {length: list(scores) for length in setting.lengths}
    known = {length: [nats[length == max(setting.lengths)]] * len(scores) for length in setting.lengths}
    found = measure.Scores(by_length, known, None, [0.0] * len(scores), [0.5] * len(scores), 1, 1.0)
    where = {"cpu": "a", "cores": 2, "device": "b", "jax": "1", "jaxlib": "1", "git": None}
    return results.Result(task, mixer, budget, tuple(range(len(scores))), setting, found, where)


def findings(*rows, **measured):
    """What a budget has found."""
    measurements = {
        name: results.Measurement(name, "small", (0,), values, 1.0, {"git": None}) for name, values in measured.items()
    }
    return Findings("small", {(row.task, row.mixer): row for row in rows}, measurements)


@pytest.mark.parametrize(
    ("negative", "positive", "word"),
    [
        ((0.5, 0.95, 0.6), (0.5, 0.6, 0.7), "reproduced"),  # one seed is enough to show that it can
        ((0.5, 0.95, 0.6), (0.5, 0.6, 0.95), "partly reproduced"),
        ((0.5, 0.55, 0.6), (0.5, 0.6, 0.7), "not reproduced"),  # nobody learnt it: who cannot shows nothing
        ((0.5, 0.55, 0.6), (0.5, 0.6, 0.95), "not reproduced"),
        ((0.5, 0.95, 0.6), None, None),
    ],
)
def test_claim_needs_both_the_able_and_the_unable(negative, positive, word):
    """A claim is reproduced if the models that can do a task do it and the others do not."""
    rows = [result("parity", "DeltaNet-negative", *negative), result("copying", "DeltaNet", 0.0)]
    rows += [result("parity", "DeltaNet", *positive)] if positive else []
    checks = base.bands(findings(*rows), **PARITY)
    if word is None:
        assert not checks  # nobody who cannot ran: that one can shows nothing of a difference
        return
    assert base.verdict(checks) == word
    assert f"| {max(negative):.3f} |" in base.table(checks)
    assert "at 128" in checks[0].what


def test_claims_name_tasks_and_mixers_that_there_are():
    assert len(CLAIMS) == 7
    for claim in CLAIMS.values():
        assert claim.pairs or claim.experiments
        assert len(set(claim.pairs)) == len(claim.pairs)
        for task, mixer in claim.pairs:
            assert task in SUITE
            assert mixer in models.PATTERNS
        assert "arXiv" in claim.paper


def test_claims_page_shows_verdicts_and_attempts(tmp_path):
    """The page shows the verdicts, what is missing and what was tried."""
    where = result("parity", "DeltaNet", 0.5).machine
    rows = [result("parity", "DeltaNet-negative", 0.95), result("parity", "DeltaNet", 0.95)]
    drawn = []

    def picture(name, draw):
        draw(Figure())
        drawn.append(name)
        return f"![{name}]"

    text = page.page(rows, [], "command", picture)
    claim = CLAIMS["state-tracking"]
    assert f"### {claim.title}: partly reproduced so far" in text
    assert "1 of 2 predictions came true." in text
    assert f"{len(claim.pairs) - 2} of its runs are missing." in text
    assert f"**What was tried:** {claim.tried[:20]}" in text
    assert "--claim state-tracking" in text
    assert CLAIMS["recall"].title not in text
    assert drawn == ["state-tracking", "tasks"]
    gradients = {"divided by their sum": {"0.01": [3.0]}, "normed": {"0.01": [3.0]}}
    full = [dataclasses.replace(row, budget="full") for row in rows]
    other = results.Measurement("gradients", "full", (0,), gradients, 1.0, where)
    assert page.findings("small", [*rows, *full], [other]).measurements == {}
    assert len(page.findings("full", [*rows, *full], [other]).results) == 2


def test_an_experiment_is_measured_once_and_shown(tmp_path, monkeypatch, capsys):
    calls = []

    def experiment(budget, seeds):
        calls.append((budget, seeds))
        return {"value": [1.0, 2.0]}

    def compare(found):
        values = found.measurements["mine"].values["value"] if found.measurements else []
        return [Check("values", "2 of them", str(len(values)), len(values) == 2)] if values else []

    claim = Claim("mine", "A title", "arXiv 1", "A statement.", compare, experiments={"mine": experiment})
    for module in (cli, page):
        monkeypatch.setattr(module, "CLAIMS", {"mine": claim})
    words = ["--workdir", str(tmp_path), "--claim", "mine", "--seeds", "2"]
    assert cli.main(words) == cli.main(words) == 0
    assert calls == [("small", (0, 1))]
    text = (tmp_path / "results.md").read_text()
    assert "### A title: reproduced\n" in text
    assert "| values | 2 of them | 2 | yes |" in text
    assert results.load_measurement(tmp_path / "results/small/experiments/mine.json").values == {"value": [1.0, 2.0]}
    assert cli.main([*words[:-1], "3"]) == 0
    assert len(calls) == 2


def test_last_states_are_those_of_the_recurrence():
    rng = np.random.default_rng(0)
    a, inputs = universality.ring(rng, 5, 0.9, 2 * np.pi), rng.standard_normal((3, 7, 1))
    assert (np.abs(a) >= 0.9).all()
    assert (np.abs(a) < 0.999).all()
    h = 0
    for t in range(7):
        h = a * h + np.sqrt(1 - np.abs(a) ** 2) * inputs[:, t]
    np.testing.assert_allclose(universality.last_states(a, inputs), h, rtol=1e-4, atol=1e-5)
    assert np.isreal(universality.ring(rng, 5, 0.0, 0.0)).all()


def test_lru_with_a_linear_readout_is_linear():
    """An LRU with a linear read-out is a linear function; with an MLP it is not."""
    x = np.random.default_rng(0).standard_normal((2, 6, 1)).astype(np.float32)
    for width, linear in ((None, True), (8, False)):
        params = universality._follower_parameters(jax.random.key(0), width)
        y, twice = (jax.jit(universality._follow)(params, inputs) for inputs in (x, 2 * x))
        assert y.shape == (2, 6)
        assert np.allclose(twice, 2 * y, rtol=1e-3, atol=1e-4) == linear
    hidden = jax.nn.gelu(lru(params["lru"], x @ params["in_kernel"], None, universality.RECURRENCE)[0]
                         @ params["mlp"]["in_kernel"])  # fmt: skip
    np.testing.assert_allclose(y, (hidden @ params["mlp"]["out_kernel"])[..., 0], rtol=1e-4, atol=1e-5)


def test_linear_attention_construction_is_a_gradient_step():
    """The layer that von Oswald et al. write down is one step of gradient descent."""
    task = tasks.LinearRegression(length=8, dim=3)
    batch = task.batch(0, 0, 20)
    select_x, select_y = np.diag([1.0, 1, 1, 0]), np.diag([0.0, 0, 0, 1])
    params = {"q": select_x, "k": select_x, "v": select_y, "out": np.array([0, 0, 0, 0.4 * 8])}
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    step = tasks.regression.gradient_step(batch.inputs, 0.4)
    np.testing.assert_allclose(gradient_descent.layer(params, batch.inputs), step, rtol=1e-4, atol=1e-5)
    slope = gradient_descent._slope(params, jax.numpy.asarray(batch.inputs[0]))
    wanted = 0.4 * (batch.inputs[0, :-1, -1:] * batch.inputs[0, :-1, :-1]).sum(0)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)


def test_baselines_of_a_task_are_scored_like_models():
    setting = dataclasses.replace(SUITE["regression"]["small"], test_size=64)
    (length,) = setting.lengths
    known = page.known_answers(setting)
    assert known["least squares"][length] < 1e-6 < 0.1 < known["one gradient step"][length] < setting.task.chance
    assert page.known_answers(SUITE["parity"]["small"]) == {}


def test_gradients_by_scores_are_those_of_the_quotient():
    values = stability.gradients("small", (0,))
    rng = np.random.default_rng(0)
    s, v = rng.uniform(size=16), rng.standard_normal((16, 8))
    wanted = np.abs((v - (s @ v / s.sum())) / s.sum()).max()
    assert values["divided by their sum"]["1.0"][0] == pytest.approx(wanted, rel=1e-4)
    checks = stability.compare(findings(gradients=values))
    assert [check.agrees for check in checks] == [True, True]


def test_decay_is_measured_beyond_the_trained_length():
    """A decay is measured by what happens beyond the trained length."""
    rows = [result("language", "GLA", 0.5, nats=(2.0, 1.9)), result("language", "TransNormer", 0.5, nats=(2.0, 1.9))]
    by_mixer = {check.what.split(":")[0]: check for check in stability.compare(findings(*rows))}
    assert by_mixer["GLA"].agrees
    assert not by_mixer["TransNormer"].agrees
    assert by_mixer["GLA"].measured == "-0.100"


def test_recall_is_compared_by_size_and_by_share():
    rows = [result("mqar", "GLA-K2", 0.3), result("mqar", "GLA-K16", 0.9), result("mqar", "LRU", 0.6)]
    assert [check.agrees for check in recall.compare(findings(*rows))] == [True, False]
    shares = [result("mqar-deep", name, score) for name, score in zip(recall.SHARES, (0.2, 0.6, 0.9, 1.0), strict=True)]
    assert [check.agrees for check in recall.compare(findings(*shares))] == [True]
    shares[-1] = result("mqar-deep", "Attention", 0.2)  # all layers are attention, and recall has fallen
    assert [check.agrees for check in recall.compare(findings(*shares))] == [False]


def test_state_spaces_face_the_better_gated_network():
    """State spaces are compared with the better of the gated networks."""
    rows = [result("adding", "S4", 0.001), result("adding", "LRU", 0.1), result("adding", "GRU", 0.0)]
    rows += [
        result("digits-pixel", "S4", 0.9),
        result("digits-pixel", "GRU", 0.95),
        result("digits-pixel", "LSTM", 0.8),
    ]
    by_name = {check.what: check.agrees for check in compare_memory(findings(*rows))}
    assert by_name == {"S4 on adding": True, "LRU on adding": False, "S4 on digits-pixel": False}


def test_claims_text_targets_and_splits():
    """Targets are the next bytes, and the splits share no text."""
    task = Language(length=50)
    batch = task.batch(0, 0, 4)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert task.held_out().split == "validation"
    assert not np.array_equal(task.held_out().batch(0, 0, 4).inputs, batch.inputs)
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        Language(split="tset")


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(FloatingPointError, match="the loss of seeds \\(0,\\) is \\[nan\\] at the end"):
        train(
            lambda key: {"w": jax.random.normal(key)},
            lambda params, batch: (params["w"] * np.nan, 1.0),
            tasks.Parity(length=4),
            (0,),
            steps=2,
            batch_size=1,
            learning_rate=0.1,
        )
