"""Tasks: functions of (seed, index) that look as they say, chance as they say, and what is no task."""

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest

from recurrax import tasks
from task_cases import ALL, COUNT


@pytest.fixture(params=ALL.values(), ids=ALL)
def task(request):
    return request.param


def test_task_examples_depend_on_seed_and_index(task):
    """Examples are functions of seed and index, and have the documented form."""
    batch = task.batch(3, 5, COUNT)
    single = task.example(3, 5 + 7)
    for whole, one in zip(batch, single, strict=True):
        if one is not None:
            np.testing.assert_array_equal(whole[7], one)
    assert not np.array_equal(task.batch(4, 5, COUNT).inputs, batch.inputs) or getattr(task, "split", "") == "test"
    assert len({one.tobytes() for one in batch.inputs}) > COUNT / 2

    assert (task.vocab_size is None) != (task.features is None)
    if task.features is None:
        assert batch.inputs.dtype == np.int32
        assert batch.inputs.shape == (COUNT, task.length)
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() < task.vocab_size
    else:
        assert batch.inputs.dtype == np.float32
        assert batch.inputs.shape == (COUNT, task.length, task.features)
    assert batch.targets.shape == batch.weights.shape == (COUNT, task.length)
    assert batch.targets.dtype == (np.float32 if task.num_classes is None else np.int32)
    assert set(np.unique(batch.weights)) <= {0, 1}
    assert (batch.weights.sum(1) > 0).all()
    assert not batch.targets[batch.weights == 0].any()
    if task.num_classes is not None:
        assert batch.targets.max() < task.num_classes
        assert batch.targets.min() >= 0
        # Classes that there are: of some task's tokens not all are answers.
        assert len(np.unique(batch.targets[batch.weights == 1])) > 1


def guesses(name):
    """What somebody answers who knows the task and not the sequence: the score of that is chance."""
    task = ALL[name]
    batch = task.batch(0, 0, 600)
    asked = batch.weights == 1
    answers = batch.targets[asked]
    if task.num_classes is None:
        guess = {"regression": 0.0, "adding": 1.0, "pendulum": 0.0}[name]
        return np.mean(np.square(answers - guess))
    if batch.distribution is not None:
        return np.mean(batch.distribution[asked][:, 1:] > 0)
    return Fraction(1, len(np.unique(answers)))


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in ("S5", "swaps", "MQAR", "MQAR, zeros between", "forgetting MQAR")]
)
def test_chance_is_what_guessing_scores(name):
    assert float(guesses(name)) == pytest.approx(ALL[name].chance, rel=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.Copying(length=15, num_items=8), "8 items are shown and asked for in 2 * 8 steps"),
        (lambda: tasks.Copying(num_symbols=0), "num_symbols must be positive, got 0"),
        (lambda: tasks.InductionHeads(length=2), "3 steps, more than length 2"),
        (
            lambda: tasks.MQAR(length=64, num_pairs=40, num_tokens=64),
            "64 tokens are 31 keys and 32 values: too few for",
        ),
        (lambda: tasks.ForgettingMQAR(num_pairs=8, num_rebinds=30, num_tokens=64), "too few for 8 keys with 38 values"),
        (lambda: tasks.MQAR(length=31, num_pairs=8), "8 pairs and 8 questions need 32 steps, more than length 31"),
        (lambda: tasks.ModularCounting(modulus=1), "modulus must be at least 2, got 1"),
        (lambda: tasks.GroupWord(group="S6"), "unknown group 'S6'; choose one of Z60, S3"),
        (lambda: tasks.GroupWord(group="A5", letters="swaps"), "no element of A5 swaps two things and moves no other"),
        (lambda: tasks.GroupWord(letters="swap"), "unknown letters 'swap' (did you mean 'swaps'?)"),
        (lambda: tasks.RandomAutomata(min_states=13), "min_states 13 is above max_states 12"),
        (lambda: tasks.RandomAutomata(max_edges=19), "max_edges 19 is above num_symbols 18"),
        (lambda: tasks.LinearRegression(length=1), "more than length 1"),
        (lambda: tasks.LinearRegression(noise=-1.0), "noise must not be negative, got -1.0"),
        (lambda: tasks.ListOps(length=3), "lists have 4 tokens or more, got min_length 4 and length 3"),
        (lambda: tasks.ListOps(max_depth=1, max_parts=3, min_length=9), "the longest list has 5 tokens, fewer than"),
        (lambda: tasks.ListOps(length=5, max_parts=2, min_length=5).example(0, 0), "none of 10,000 lists has 5 to 5"),
        (lambda: tasks.SequentialImages(source="mnits"), "unknown source 'mnits' (did you mean 'mnist'?)"),
        (lambda: tasks.SequentialImages(length=65), "digits by pixel has 64 steps, not length 65"),
        (lambda: tasks.Passkey(length=60), "key and question are"),
        (lambda: tasks.Oscillation(spacing=3.0), "samples 3.0 apart hold frequencies up to 0.167, fewer than the 0.25"),
        (lambda: tasks.Oscillation(spacing=0.0), "spacing must be positive, got 0.0"),
        (lambda: tasks.Oscillation(noise=-1.0), "noise must not be negative, got -1.0"),
        (lambda: tasks.Pendulum(force=0.0), "force must be positive, got 0.0"),
        (lambda: tasks.Parity(modulus=3), "parity is counting modulo 2, not 3; take ModularCounting"),
        (lambda: tasks.Parity(length=0), "length must be positive, got 0"),
        (lambda: tasks.MQAR(length=64, num_pairs=4).at(12), "need 16 steps, more than length 12"),
    ],
)
def test_what_is_no_task_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_longer_tasks_are_the_same_tasks():
    for name in ("parity", "S5", "selective copying", "adding", "passkey"):
        longer = ALL[name].at(300)
        assert longer.batch(0, 0, 2).inputs.shape[1] == 300
        assert dataclasses.replace(longer, length=ALL[name].length) == ALL[name]
