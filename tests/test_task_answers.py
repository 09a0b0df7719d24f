"""Tasks: every answer worked out again from the inputs alone, by other means than those that made it."""

import dataclasses
import re

import numpy as np
import pytest

from recurrax import tasks
from recurrax.tasks.automata import SEPARATOR
from recurrax.tasks.digits import images
from recurrax.tasks.groups import GROUPS, elements
from recurrax.tasks.listops import TOKENS
from recurrax.tasks.regression import best_rate, gradient_step, least_squares
from task_cases import ALL, COUNT


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


@pytest.mark.parametrize("name", ["Z60", "S3", "S4", "A5", "S5", "swaps", "generators of S4", "generators of A5"])
def test_words_of_groups_are_products_of_matrices(name):
    task = ALL[name]
    # p's matrix takes e_i to e_p(i): its column i is the column p(i) of the identity.
    matrices = [np.eye(len(p), dtype=int)[:, list(p)] for p in elements(task.group)]
    assert len(matrices) == {"Z60": 60, "S3": 6, "S4": 24, "A5": 60, "S5": 120}[task.group] == task.num_classes
    if task.group == "A5":
        assert all(round(np.linalg.det(m)) == 1 for m in matrices)
    if name == "swaps":
        assert len(task.alphabet) == 1 + 10
    for inputs, asked, answers in rows(name, 10):
        assert asked == list(range(30))
        product = np.eye(len(matrices[0]), dtype=int)
        for element, answer in zip(inputs, answers, strict=True):
            product = matrices[element] @ product
            np.testing.assert_array_equal(product, matrices[answer])


@pytest.mark.parametrize("group", GROUPS)
def test_all_elements_are_products_of_the_two_generators(group):
    task = tasks.GroupWord(group=group, letters="generators")
    first, second = (elements(group)[letter] for letter in task.alphabet)
    found, new = set(), {first, second}
    while new:
        found |= new
        new = {tuple(a[i] for i in b) for a in (first, second) for b in new} - found
    assert found == set(elements(group))
    assert {*task.batch(0, 0, 4).inputs.flat} == {*task.alphabet}


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
    noisy = tasks.LinearRegression(length=2, noise=2.0).batch(0, 0, 2000).targets[:, -1]
    assert np.var(noisy) == pytest.approx(5, rel=0.1)


def test_marked_numbers_are_added():
    for inputs, asked, answers in rows("adding"):
        first, second = np.flatnonzero(inputs[:, 1])
        assert first < 7 <= second
        assert asked == [14]
        assert answers[0] == pytest.approx(inputs[first, 0] + inputs[second, 0], rel=1e-6)


def test_oscillations_have_the_frequency_that_is_asked_for():
    task = tasks.Oscillation(length=64, noise=0.0)
    for spacing, length in ((1.0, 64), (2.0, 32)):
        batch = dataclasses.replace(task, spacing=spacing, length=length).batch(0, 0, 50)
        power = np.abs(np.fft.rfft(batch.inputs[..., 0])) ** 2
        # The whole is 64 units of time: bin n of the spectrum has n periods.
        np.testing.assert_array_equal(power.argmax(1), 2 * (batch.targets[:, -1] + 1))
    assert len(np.unique(batch.targets[:, -1])) > 5


def test_the_pendulum_swings_as_its_equation_says():
    pushes, places = (task := tasks.Pendulum(length=10, force=0.8)).example(0, 3)[:2]
    angle, speed, step = 0.0, 0.0, 1e-4
    for push, place in zip(pushes[:, 0].astype(float), places, strict=True):
        for _ in range(5000):  # half a unit of time, by small steps of the midpoint rule
            middle = speed + step / 2 * (push - np.sin(angle) - speed / 5)
            speed += step * (push - np.sin(angle + step / 2 * speed) - middle / 5)
            angle += step * middle
        assert place == pytest.approx(np.sin(angle), abs=1e-3)
    assert np.abs(task.batch(0, 0, 50).targets).max() > 0.9


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


def test_digits_splits_are_disjoint():
    """The digits are those of the data set, and the splits share no example."""
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
