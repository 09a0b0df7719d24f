"""Tasks: every answer worked out again from the inputs alone, by other means than those that made it."""

import dataclasses
import inspect
import re
from fractions import Fraction

import numpy as np
import pytest

from recurrax import tasks
from recurrax.tasks.automata import SEPARATOR
from recurrax.tasks.digits import images
from recurrax.tasks.groups import elements
from recurrax.tasks.listops import TOKENS
from recurrax.tasks.regression import best_rate, gradient_step, least_squares

ALL = {
    "copying": tasks.Copying(length=40),
    "selective copying": tasks.SelectiveCopying(length=40),
    "induction heads": tasks.InductionHeads(length=20),
    "MQAR": tasks.MQAR(length=64, num_pairs=8, num_tokens=64),
    "MQAR, zeros between": tasks.MQAR(length=64, num_pairs=8, num_tokens=64, random_between=False),
    "forgetting MQAR": tasks.ForgettingMQAR(length=64, num_pairs=6, num_rebinds=9, num_tokens=64),
    "parity": tasks.Parity(length=33),
    "counting": tasks.ModularCounting(length=33, modulus=5),
    "arithmetic": tasks.ModularArithmetic(length=32),
    **{group: tasks.GroupWord(length=30, group=group) for group in ("Z60", "S3", "S4", "A5", "S5")},
    "swaps": tasks.GroupWord(length=30, group="S5", max_moved=2),
    "automata": tasks.RandomAutomata(length=100),
    "regression": tasks.LinearRegression(length=12, dim=4, noise=0.5),
    "adding": tasks.Adding(length=15),
    "listops": tasks.ListOps(length=60),
    "digits": tasks.SequentialImages(),
    "digits by row": tasks.SequentialImages(scan="row", split="test"),
    "passkey": tasks.Passkey(length=200),
}
COUNT = 40


@pytest.fixture(params=ALL.values(), ids=ALL)
def task(request):
    return request.param


def test_examples_are_functions_of_seed_and_index_and_look_as_they_say(task):
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


def test_docstrings_say_claim_chance_and_what_to_expect(task):
    about = inspect.getdoc(type(task))
    for part in ("Claim:", "Chance:", "Expected:"):
        assert part in about
    assert re.search(r"arXiv\s\d{4}\.\d{4,5}|19\d\d", about)


def guesses(name):
    """What somebody answers who knows the task and not the sequence: the score of that is chance."""
    task = ALL[name]
    batch = task.batch(0, 0, 600)
    asked = batch.weights == 1
    answers = batch.targets[asked]
    if task.num_classes is None:
        guess = {"regression": 0.0, "adding": 1.0}[name]
        return np.mean(np.square(answers - guess))
    if batch.distribution is not None:
        return np.mean(batch.distribution[asked][:, 1:] > 0)
    return Fraction(1, len(np.unique(answers)))


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in ("S5", "swaps", "MQAR", "MQAR, zeros between", "forgetting MQAR")]
)
def test_chance_is_what_guessing_scores(name):
    assert float(guesses(name)) == pytest.approx(ALL[name].chance, rel=0.15)


def rows(name, count=COUNT):
    """(inputs, the steps that are asked for, the answers) of some examples."""
    task = ALL[name]
    for index in range(count):
        inputs, targets, weights, _ = task.example(1, index)
        asked = np.flatnonzero(weights)
        yield inputs, asked.tolist(), targets[asked].tolist()


@pytest.mark.parametrize("name", ["copying", "selective copying"])
def test_copies_are_the_symbols_in_their_order(name):
    places = set()
    for inputs, asked, answers in rows(name):
        assert asked == list(range(32, 40))
        assert inputs[32] == 1
        assert answers == [token for token in inputs if token > 1]
        places.add(tuple(np.flatnonzero(inputs > 1)))
    assert (len(places) == 1) == (name == "copying")


def test_induction_asks_for_what_came_after_the_sign():
    for inputs, asked, answers in rows("induction heads"):
        first, last = np.flatnonzero(inputs == 16)
        assert asked == [last] == [19]
        assert answers == [inputs[first + 1]]


@pytest.mark.parametrize("name", ["MQAR", "MQAR, zeros between", "forgetting MQAR"])
def test_keys_ask_for_their_last_value(name):
    task = ALL[name]
    shown = 2 * (task.num_pairs + task.num_rebinds)
    rebound = 0
    for inputs, asked, answers in rows(name):
        keys, values = inputs[:shown:2].tolist(), inputs[1:shown:2].tolist()
        assert len(set(values)) == len(values)
        assert len(set(keys)) == task.num_pairs
        assert max(keys) < 32 <= min(values)
        assert min(keys) > 0
        assert sorted(inputs[asked].tolist()) == sorted(set(keys))
        assert all(step >= shown and step % 2 == 0 for step in asked)
        for key, answer in zip(inputs[asked].tolist(), answers, strict=True):
            assert values[len(keys) - 1 - keys[::-1].index(key)] == answer
        rebound += len(keys) > len(set(keys))
        between = np.delete(inputs[shown:], np.array(asked) - shown)
        assert between.any() == task.random_between
    assert (rebound == COUNT) == (name == "forgetting MQAR")


def test_questions_follow_the_law_of_distances():
    task = tasks.MQAR(length=128, num_pairs=2, num_tokens=64, power=0.01)
    places = [(step - 4) // 2 for i in range(400) for step in np.flatnonzero(task.example(0, i).weights)]
    law = np.arange(1, 63) ** (0.01 - 1)
    assert np.mean(np.array(places) == 0) == pytest.approx(law[0] / law.sum(), rel=0.25)
    even = dataclasses.replace(task, power=1.0)
    places = [(step - 4) // 2 for i in range(400) for step in np.flatnonzero(even.example(0, i).weights)]
    assert np.mean(places) == pytest.approx(61 / 2, rel=0.1)


@pytest.mark.parametrize(("name", "modulus"), [("parity", 2), ("counting", 5)])
def test_ones_are_counted(name, modulus):
    for inputs, asked, answers in rows(name):
        assert asked == list(range(33))
        assert answers == [inputs[: t + 1].tolist().count(1) % modulus for t in asked]


def test_arithmetic_goes_from_left_to_right():
    for inputs, asked, answers in rows("arithmetic"):
        assert asked == list(range(0, 32, 2))
        for t, answer in zip(asked, answers, strict=True):
            text = str(inputs[0])
            for sign, number in zip(inputs[1 : t + 1 : 2], inputs[2 : t + 1 : 2], strict=True):
                text = f"({text}){'+-*'[sign - 5]}{number}"
            assert eval(text) % 5 == answer


@pytest.mark.parametrize("name", ["Z60", "S3", "S4", "A5", "S5", "swaps"])
def test_words_of_groups_are_products_of_matrices(name):
    task = ALL[name]
    # p's matrix takes e_i to e_p(i): its column i is the column p(i) of the identity.
    matrices = [np.eye(len(p), dtype=int)[:, list(p)] for p in elements(task.group)]
    assert len(matrices) == {"Z60": 60, "S3": 6, "S4": 24, "A5": 60, "S5": 120}[task.group] == task.num_classes
    if task.group == "A5":
        assert all(round(np.linalg.det(m)) == 1 for m in matrices)
    if name == "swaps":
        assert len(task.letters) == 1 + 10
    for inputs, asked, answers in rows(name, 10):
        assert asked == list(range(30))
        product = np.eye(len(matrices[0]), dtype=int)
        for element, answer in zip(inputs, answers, strict=True):
            product = matrices[element] @ product
            np.testing.assert_array_equal(product, matrices[answer])


def test_words_of_automata_follow_edges():
    task = ALL["automata"]
    states = set()
    for index in range(COUNT):
        inputs, targets, weights, distribution = task.example(1, index)
        automaton = task.automaton(1, index)
        states.add(len(automaton.symbols))
        assert min(map(len, automaton.symbols)) >= 1
        assert max(map(len, automaton.symbols)) <= 4
        for symbols, following in zip(automaton.symbols, automaton.targets, strict=True):
            assert len(set(symbols)) == len(set(following)) == len(symbols)
        assert inputs[0] == SEPARATOR
        state, word = 0, 0
        for t, token in enumerate(inputs):
            if token == SEPARATOR:
                assert t == 0 or 1 <= word <= 50
                state, word = 0, 0
            else:
                edge = automaton.symbols[state].index(token)
                assert automaton.targets[state][edge] != state
                state, word = automaton.targets[state][edge], word + 1
            if weights[t]:
                allowed = np.zeros(19)
                allowed[automaton.symbols[state]] = 1 / len(automaton.symbols[state])
                np.testing.assert_allclose(distribution[t], allowed)
                assert allowed[targets[t]] > 0
                assert t + 1 == task.length or inputs[t + 1] == targets[t]
            else:
                assert not distribution[t].any()
                assert t + 1 == task.length or inputs[t + 1] == SEPARATOR
    assert min(states) == 4
    assert max(states) == 12
    again = dataclasses.replace(task, num_automata=3)
    assert again.automaton(0, 1) == again.automaton(0, 4) != again.automaton(0, 2)
    assert not np.array_equal(again.example(0, 1).inputs, again.example(0, 4).inputs)


def test_regression_and_its_baselines():
    exact = tasks.LinearRegression(length=9, dim=3)
    batch = exact.batch(0, 0, 200)
    answers = batch.targets[:, -1]
    assert not batch.inputs[:, -1, -1].any()
    np.testing.assert_allclose(least_squares(batch.inputs), answers, atol=1e-4)
    # One step from 0, differentiated by differences.
    rate, pairs, question = 0.07, batch.inputs[0, :-1].astype(np.float64), batch.inputs[0, -1, :-1]

    def cost(w):
        return np.sum((pairs[:, :-1] @ w - pairs[:, -1]) ** 2) / 2

    slope = np.array([(cost(1e-5 * e) - cost(-1e-5 * e)) / 2e-5 for e in np.eye(3)])
    assert gradient_step(batch.inputs, rate)[0] == pytest.approx(-rate * slope @ question, rel=1e-4)
    best = best_rate(batch.inputs, answers)
    errors = [np.mean((gradient_step(batch.inputs, r) - answers) ** 2) for r in (0.9 * best, best, 1.1 * best)]
    assert errors[1] == min(errors) < 0.6
    assert np.var(tasks.LinearRegression(length=2, noise=2.0).batch(0, 0, 2000).targets[:, -1]) == pytest.approx(
        5, rel=0.1
    )


def test_marked_numbers_are_added():
    for inputs, asked, answers in rows("adding"):
        first, second = np.flatnonzero(inputs[:, 1])
        assert first < 7 <= second
        assert asked == [14]
        assert answers[0] == pytest.approx(inputs[first, 0] + inputs[second, 0], rel=1e-6)


def test_lists_are_evaluated_with_a_stack():
    operations = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(np.median(v)), "[SM": lambda v: sum(v) % 10}
    seen = set()
    for inputs, asked, answers in rows("listops", 100):
        words, stack, depth = [TOKENS[token] for token in inputs if token], [[]], 0
        for place, word in enumerate(words):
            if word in operations:
                seen.add(word)
                stack.append([word])
            elif word == "]":
                name, *values = stack.pop()
                assert 2 <= len(values) <= 5
                stack[-1].append(operations[name](values))
            else:
                stack[-1].append(int(word))
            depth = max(depth, len(stack) - 1)
            assert (len(stack) == 1) == (place == len(words) - 1)
        assert asked == [len(words) - 1]
        assert stack == [answers]
        assert depth <= 4
    assert seen == set(operations)


def test_digits_are_those_of_the_data_set_and_splits_are_apart():
    pixels, labels = images("digits", "test")
    assert len(labels) + len(images("digits", "train")[1]) == 1797
    for scan, shape in (("pixel", (64, 1)), ("row", (8, 8))):
        task = tasks.SequentialImages(scan=scan, split="test")
        example = task.example(0, 5)
        np.testing.assert_allclose(example.inputs.reshape(8, 8), pixels[5, :, :, 0] - 0.5, atol=1e-7)
        assert example.inputs.shape == shape
        assert example.targets[-1] == labels[5]
        assert task.length == shape[0]
    held_out = {image.tobytes() for image in pixels}
    train = tasks.SequentialImages()
    assert train.held_out() == tasks.SequentialImages(split="test")
    seen = {tuple(train.example(0, i).inputs[:, 0]) for i in range(300)}
    assert not seen & {tuple((np.frombuffer(p) - 0.5).astype(np.float32)) for p in held_out}


def test_passkeys_are_said_in_the_text():
    places = set()
    for inputs, asked, answers in rows("passkey"):
        text, key = bytes(inputs.tolist()).decode(), bytes(answers).decode()
        said = re.findall(r"The pass key is (\d+)\. Remember it\.", text)
        assert said == [key]
        assert text.endswith(f"The pass key is {key[:-1]}")
        assert asked == list(range(195, 200))
        places.add(text.index(key))
    assert len(places) > 2


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
        (lambda: tasks.GroupWord(group="A5", max_moved=2), "no element of A5 but one moves at most 2"),
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
