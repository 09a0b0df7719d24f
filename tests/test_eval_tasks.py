"""`python -m eval tasks`: scores are what they say, seeds are apart, a sweep goes on, results are not mixed."""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.tasks import cli, measure, models, page, results, seeds
from eval.tasks.suite import DOWNLOADED, SUITE, Setting
from recurrax import tasks
from recurrax.mixers import GLA, LRU
from recurrax.tasks import Example, digits

TINY = Setting(
    tasks.Copying(length=4, num_items=2, num_symbols=2),
    (4, 6),
    steps=60,
    batch_size=16,
    dim=16,
    num_layers=1,
    learning_rate=1e-2,
    test_size=40,
)
PATTERN = (LRU(state_dim=16),)


@pytest.fixture(scope="module")
def tiny():
    return measure.measure(TINY, PATTERN, (0, 1))


def test_it_learns_and_every_seed_is_its_own(tiny):
    assert set(tiny.score) == {4, 6}
    assert min(tiny.score[4]) > 0.95
    assert max(tiny.score[6]) < 0.95  # a delay that it has not seen
    assert tiny.distance is None
    assert max(tiny.nats[4]) < 0.2 < 0.5 < min(tiny.nats[6])
    assert min(tiny.roughness) > 0
    assert max(tiny.loss) < 0.1
    assert tiny.parameters > 0
    alone = measure.measure(TINY, PATTERN, (1,))
    assert alone.loss[0] == pytest.approx(tiny.loss[1], rel=1e-3)
    assert alone.loss[0] != pytest.approx(tiny.loss[0], rel=1e-3)
    assert alone.score[4][0] == pytest.approx(tiny.score[4][1])


def test_task_batches_depend_on_step_and_seed():
    """Successive batches and other seeds have other sequences."""
    setting = dataclasses.replace(TINY, steps=3)
    found = list(seeds.batches(setting.task, (5, 6), setting.steps, setting.batch_size))
    assert len(found) == 3
    for step, batch in enumerate(found):
        for i, seed in enumerate((5, 6)):
            wanted = TINY.task.batch(seed, step * 16, 16)
            np.testing.assert_array_equal(batch.inputs[i], wanted.inputs)
            np.testing.assert_array_equal(batch.targets[i], wanted.targets)
            np.testing.assert_array_equal(batch.weights[i], wanted.weights)


def test_a_curriculum_deals_the_steps_to_its_lengths():
    lengths = (4, 4, 8, 16)
    found = list(seeds.batches(tasks.Parity(length=16), (0,), 8, 2, lengths))
    assert [batch.inputs.shape for batch in found] == [(1, 2, length) for length in lengths for _ in range(2)]
    np.testing.assert_array_equal(found[5].inputs[0], tasks.Parity(length=8).batch(0, 10, 2).inputs)


def test_task_settings_name_projection_and_heads():
    """The settings name the projection that follows a mixer and the mixer's heads."""
    bare = dataclasses.replace(TINY, projection=False, options=(("num_heads", 4), ("conv_width", 1)))
    config = models.model_for(bare, (GLA(num_heads=2), LRU())).config
    assert config.projection is None
    assert config.pattern == (GLA(num_heads=4, conv_width=1), LRU())
    assert models.model_for(TINY, (GLA(num_heads=2),)).config.projection is not None


def test_task_scores_sum_over_weighted_positions():
    """Right answers, errors and distances are summed over the positions that count."""
    weights = np.array([[1, 1, 0]], np.float32)
    logits = np.log([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]]])  # one seed, one sequence
    targets = np.array([[0, 2, 2]], np.int32)
    batch = Example(np.zeros((1, 3), np.int32), targets, weights)
    found = measure.graded(logits + 5, batch)
    assert found["score"] == [1]
    assert found["nats"] == pytest.approx([-np.log(0.5) - np.log(0.1)])
    assert set(found) == {"score", "nats"}
    true = np.array([[[0, 0.5, 0.5], [0, 1, 0], [0, 0, 0]]], np.float32)
    found = measure.graded(logits, batch._replace(distribution=true))
    assert found["score"] == [1]  # the second: the first answer's likeliest symbol is none that is allowed
    assert found["distance"] == pytest.approx([0.5 + 0.2])
    numbers = batch._replace(targets=np.array([[0.5, 2, 9]], np.float32))
    assert measure.graded(np.array([[[[1.0], [2.5], [0.0]]]]), numbers)["score"] == pytest.approx([0.25 + 0.25])


def test_losses_are_sums_over_what_counts():
    weights = np.array([[1, 0, 1]], np.float32)
    logits = np.array([[[0.0, 1.0], [5.0, 0.0], [2.0, 0.0]]], np.float32)
    batch = Example(np.zeros((1, 3), np.int32), np.array([[1, 0, 1]], np.int32), weights)
    wanted = -(1 - np.log(1 + np.e) - np.log(1 + np.exp(2))) / 2
    total, count = measure.loss(logits, batch)
    assert (float(total / count), float(count)) == (pytest.approx(wanted, rel=1e-6), 2)
    numbers = batch._replace(targets=np.array([[1, 0, 3]], np.float32))
    assert float(measure.loss(logits[..., :1], numbers)[0]) == pytest.approx(1 + 1)


def shapes(pattern, setting):
    model, task = models.model_for(setting, pattern), setting.task
    inputs = jnp.zeros((2, 8), jnp.int32) if task.features is None else jnp.zeros((2, 8, task.features))
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs)[0][0]).shape


@pytest.mark.parametrize("name", models.PATTERNS)
def test_every_mixer_makes_a_model(name):
    assert shapes(models.PATTERNS[name], dataclasses.replace(SUITE["parity"]["small"], num_layers=4)) == (2, 8, 2)


@pytest.mark.parametrize("name", [name for name in SUITE if name not in DOWNLOADED])
def test_every_task_has_its_settings(name):
    for setting in SUITE[name].values():
        outputs = setting.task.num_classes or 1
        assert shapes((LRU(),), setting) == (2, 8, outputs)
        for length in setting.lengths:
            assert setting.task.held_out().at(length).batch(0, 0, 1).targets.shape == (1, length)


@pytest.fixture
def suite(monkeypatch, tiny):
    """Two tasks, and a measurement that takes no time."""
    two = {"copying": {"small": TINY}, "adding": {"small": Setting(tasks.Adding(length=4), (4,), steps=1)}}
    calls = []

    def measured(setting, pattern, seeds):
        calls.append((type(setting.task).__name__, pattern))
        if calls[-1] == ("Adding", models.PATTERNS["GRU"]) and len(calls) == 4:
            raise KeyboardInterrupt
        if pattern == models.PATTERNS["LSTM"]:
            raise FloatingPointError("the loss is nan")
        return dataclasses.replace(tiny, seconds=2.0, score={length: list(tiny.score[4]) for length in setting.lengths})

    for module in (cli, page):
        monkeypatch.setattr(module, "SUITE", two)
    monkeypatch.setattr(cli, "measure", measured)
    return calls


def test_an_interrupted_sweep_goes_on_where_it_stopped(suite, tmp_path, capsys):
    words = ["--workdir", str(tmp_path), "--task", "copying", "adding", "--mixer", "LRU", "GRU", "--seeds", "2"]
    assert cli.main(words) == 0
    assert "Stopped; the same command goes on with GRU on adding" in capsys.readouterr().out
    assert not (tmp_path / "results.md").exists()
    assert cli.main(words) == 0
    assert len(suite) == 5
    page = (tmp_path / "results.md").read_text()
    for part in (
        "## copying",
        "## adding",
        "**Chance:** 1 / num_symbols",
        "| LRU |",
        "| GRU |",
        "arXiv",
        "**4**",
        "| 2 | 2 |",
    ):
        assert part in page
    assert "![tasks](results/tasks.png)" in page
    assert (tmp_path / "results/tasks.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "results/small/copying/LRU.json").read_text())
    assert found["seeds"] == [0, 1]
    assert set(found["score"]) == {"4", "6"}
    assert found["config"]["setting"]["task"]["type"] == "recurrax.tasks.Copying"
    assert found["config"]["model"]["pattern"][0]["type"] == "recurrax.mixers.LRU"
    assert {"git", "packages", "devices"} <= set(found["versions"])
    assert results.load(tmp_path / "results/small/copying/LRU.json").setting == TINY
    assert found["seconds"] > 0

    assert cli.main([*words[:-1], "3"]) == 0  # more seeds: all again
    assert len(suite) == 9


def test_nonfinite_model_is_reported_and_others_continue(suite, tmp_path, capsys):
    """A model that becomes non-finite is reported, and the other models are still evaluated."""
    words = ["--workdir", str(tmp_path), "--task", "copying", "--mixer", "LSTM", "GRU", "--seeds", "2"]
    assert cli.main(words) == 1
    out = capsys.readouterr().out
    assert "no result of LSTM on copying: the loss is nan" in out
    assert "| LSTM |" not in (tmp_path / "results.md").read_text()
    assert "| GRU |" in (tmp_path / "results.md").read_text()


def test_results_of_other_code_are_not_mixed_in(suite, tmp_path):
    words = ["--workdir", str(tmp_path), "--task", "copying", "--mixer", "GRU", "--seeds", "2"]
    assert cli.main(words) == 0
    file = results.path(tmp_path, "small", "copying", "GRU")
    found = json.loads(file.read_text())
    page = (tmp_path / "results.md").read_bytes()
    for change in ({"git": {"commit": "a" * 40, "dirty": False}}, {"packages": {"jax": "0.0"}}):
        file.write_text(json.dumps({**found, "versions": {**found["versions"], **change}}))
        with pytest.raises(ValueError, match=f"(?s)they are not mixed.*{re.escape(str(file))}"):
            cli.main(words)
        assert (tmp_path / "results.md").read_bytes() == page
    git = {"commit": "a" * 40, "dirty": False}
    file.write_text(json.dumps({**found, "machine": {**found["machine"], "git": git}, "versions": {"git": git}}))
    assert cli.main([*words, "--mixer", "GRU", "LRU", "--mixed"]) == 0
    rows = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith(("| GRU", "| LRU"))]
    assert ["commit aaaaaaaaaaaa" in row for row in rows] == [row.startswith("| GRU") for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "partity"], "unknown task 'partity' (did you mean 'parity'?)"),
        (["--mixer", "Mambo"], "unknown mixer 'Mambo' (did you mean 'Mamba'?)"),
        (["--budget", "smal"], "unknown budget 'smal' (did you mean 'small'?)"),
        (["--seeds", "0"], "seeds must be positive, got 0"),
        (["--claim", "recal"], "unknown claim 'recal' (did you mean 'recall'?)"),
        (["--claim", "recall", "--task", "mqar"], "say --claim, or --task and --mixer, not both"),
    ],
)
def test_flags_that_name_nothing_are_refused(tmp_path, words, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--workdir", str(tmp_path / "run"), *words])
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", "", capsys.readouterr().err).split())
    assert not (tmp_path / "run").exists()


def test_missing_data_are_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.images.cache_clear()
    with pytest.raises(ValueError, match="no data for the task digits-row: .* pip install scikit-learn"):
        cli.main(["--workdir", str(tmp_path / "run"), "--task", "copying", "digits-row"])
    assert not (tmp_path / "run").exists()


def test_settings_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="trained length 4 is not among the tested \\(6,\\)"):
        dataclasses.replace(TINY, lengths=(6,))
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        dataclasses.replace(TINY, steps=0)
    with pytest.raises(ValueError, match="2 items are shown"):
        dataclasses.replace(TINY, lengths=(4, 3))
    with pytest.raises(ValueError, match="num_heads"):
        models.model_for(TINY, (GLA(num_heads=3),)).init(jax.random.key(0), np.zeros((1, 1), np.int32))
    with pytest.raises(ValueError, match="2 items are shown"):
        dataclasses.replace(TINY, curriculum=(3, 4))
