"""Distillation: the loss beside float64 NumPy, teachers that stay as they are, and what does not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import probes
from recurrax.mixers import LRU
from recurrax.models import LanguageModelConfig, build
from runs import metrics, saved_state, small
from train import loop, presets, sharding
from train.objectives import Distillation, Match, NextToken
from train.starts import Pretrained, Run
from train.state import abstract_frozen, load_frozen

pytestmark = pytest.mark.usefixtures("compiled_once")
STUDENT = LanguageModelConfig(vocab_size=288, dim=16, num_layers=2, pattern=(LRU(state_dim=8),), projection=None)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def batch():
    tokens = np.random.default_rng(0).integers(0, 256, (2, 9))
    weights = np.ones((2, 8), np.float32)
    weights[1, 5:] = 0
    reset = np.zeros((2, 8), bool)
    reset[:, 0] = reset[1, 3] = True
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "reset": reset, "weights": weights}


def test_loss_is_that_of_the_formula(small_run, batch):
    """Two teachers' mean distribution at a temperature, cross entropy and a distance, at the targets that count."""
    matches = (Match("final_norm", "final_norm", 0.5), Match("1/mixer/output", "0/mixer/output", 2.0, of=1))
    objective = Distillation(
        teachers=(Run(str(small_run)), Run(str(small_run), step=8)),
        temperature=3.0,
        soft=0.7,
        hard=0.4,
        matches=matches,
    )
    frozen = {str(i): t.stored() for i, t in enumerate(objective.teachers)}
    assert set(objective.frozen_declarations(STUDENT)) == {f"{i}/{path}" for i in frozen for path in frozen[i]}
    mesh = sharding.make_mesh(small("").mesh)
    config = dataclasses.replace(small("x"), model=STUDENT, objective=objective)
    frozen = load_frozen(config, abstract_frozen(config, mesh))
    student = build(STUDENT)
    params = student.init(jax.random.key(3), batch["inputs"])["params"]
    found = jax.jit(lambda params: objective.loss(student, params, batch, frozen=frozen))(params)

    sites = ["logits", "final_norm", "0/mixer/output"]
    own = probes.record(student, {"params": params}, batch["inputs"], [*sites, "1/mixer/output"], reset=batch["reset"])
    teacher = build(objective.teachers[0].model())
    theirs = [
        probes.record(teacher, {"params": frozen[i]}, batch["inputs"], sites, reset=batch["reset"]) for i in ("0", "1")
    ]
    log_p = log_softmax(np.asarray(own["logits"]) / 3.0)
    q = np.mean([np.exp(log_softmax(np.asarray(each["logits"]) / 3.0)) for each in theirs], axis=0)
    divergence = (q * (np.log(q) - log_p)).sum(-1)
    plain = -np.take_along_axis(log_softmax(own["logits"]), batch["targets"][..., None], -1)[..., 0]
    distance = np.zeros_like(plain)
    for x, y, w in (
        (own["final_norm"], theirs[0]["final_norm"], 0.5),
        (own["1/mixer/output"], theirs[1]["0/mixer/output"], 2.0),
    ):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        distance += w * ((x - y) ** 2).sum(-1) / (y**2).sum(-1).mean()
    weights = batch["weights"]
    expected = 0.4 * plain + 0.7 * 9.0 * divergence + distance
    np.testing.assert_allclose(found.total, (weights * expected).sum(), rtol=1e-5)
    assert found.weight == weights.sum()
    for name, value in {"cross_entropy": plain, "divergence": divergence, "distance": distance}.items():
        np.testing.assert_allclose(found.metrics[name], (weights * value).sum(), rtol=1e-4)


def test_student_that_is_the_teacher_has_no_divergence(small_run, batch):
    """At the teacher's own parameters the divergence and its gradient are zero."""
    teacher = Run(str(small_run))
    objective = Distillation(teachers=(teacher,), matches=(Match("final_norm", "final_norm"),))
    model = build(teacher.model())
    from recurrax.parameters import nested

    params = jax.tree.map(jnp.asarray, nested(teacher.stored()))
    loss = jax.value_and_grad(lambda p: objective.loss(model, p, batch, frozen={"0": params}).total)
    value, gradient = jax.jit(loss)(params)
    assert abs(float(value)) < 1e-4
    assert all(np.abs(leaf).max() < 1e-4 for leaf in jax.tree.leaves(gradient))


def test_run_learns_from_its_teacher(small_run, text, tmp_path):
    """The teacher is not saved with the state; evaluation is that of the text; rows have the divergence."""
    objective = Distillation(teachers=(Run(str(small_run)),), temperature=1.0)
    config = dataclasses.replace(small(text), objective=objective)
    loop.train(config, str(tmp_path / "run"))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["divergence"] < rows[0]["divergence"]
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["divergence"], rel=1e-5)
    assert not any(name.startswith("0/") for name in saved_state(tmp_path / "run"))
    assert {"validation_loss"} == {name for name in rows[-1] if name.startswith("validation_")}
    assert objective.held_out() == NextToken()


REFUSALS = {
    "no teacher": (lambda run: Distillation(), "needs teachers, such as"),
    "no such teacher": (
        lambda run: Distillation(teachers=(run,), matches=(Match("a", "b", of=1),)),
        "there is no teacher 1",
    ),
    "no run": (lambda run: Distillation(teachers=(Run("/nowhere"),)), "it has no config.json"),
    "no checkpoint": (lambda run: Distillation(teachers=(Pretrained("/nowhere"),)), "has no config.json"),
    "no site": (
        lambda run: Distillation(teachers=(run,), matches=(Match("9/mixer/output", "final_norm"),)),
        "9/mixer/output",
    ),
    "a state": (
        lambda run: Distillation(teachers=(run,), matches=(Match("0/mixer/state/h", "0/mixer/state/h"),)),
        "not one vector",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_teach_is_refused(case, small_run, text, tmp_path):
    make, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        loop.train(dataclasses.replace(small(text), objective=make(Run(str(small_run)))), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_teacher_of_another_vocabulary_or_width_is_refused(small_run):
    objective = Distillation(teachers=(Run(str(small_run)),), matches=(Match("final_norm", "final_norm"),))
    with pytest.raises(ValueError, match="has a vocabulary of 288 tokens, the student one of 300"):
        objective.frozen_declarations(dataclasses.replace(STUDENT, vocab_size=300))
    with pytest.raises(ValueError, match=r"has shape \(1, 2, 8\), final_norm of the teacher \(1, 2, 16\)"):
        objective.frozen_declarations(dataclasses.replace(STUDENT, dim=8))


def test_preset_distils_a_run(small_run):
    config = presets.find(f"distill:{small_run}")()
    assert config.objective.teachers == (Run(str(small_run)),)
    assert config.model.vocab_size == 288
    assert abstract_frozen(config, sharding.make_mesh(config.mesh))
