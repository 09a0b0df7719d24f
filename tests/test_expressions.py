"""Settings as expressions: what they construct, what is refused, and presets of a user's own file."""

import textwrap

import pytest

from recurrax.mixers import GLA, Attention, Bidirectional
from recurrax.models import BlockConfig
from recurrax.projections import GLU, MLP
from recurrax.tasks import Adding
from train import expressions, presets
from train.__main__ import main
from train.data import TaskData
from train.objectives import Regression
from train.optimizers import AdamW, Cosine, Linear, Muon


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("GLA(num_heads=2)", GLA(num_heads=2)),
        ("(GLA(2), Attention(window=16),)", (GLA(num_heads=2), Attention(window=16))),
        ("[GLU(), None]", (GLU(), None)),
        ("Bidirectional(GLA(num_heads=2))", Bidirectional(GLA(num_heads=2))),
        ("BlockConfig(GLA(), MLP(hidden=8))", BlockConfig(GLA(), MLP(hidden=8))),
        ("AdamW(clip_norm=inf, groups=('recurrence=0.1',))", AdamW(clip_norm=float("inf"), groups=("recurrence=0.1",))),
        (" Muon(0.02, Linear(decay_steps=500)) ", Muon(learning_rate=0.02, schedule=Linear(decay_steps=500))),
        ("-1.5", -1.5),
    ],
)
def test_expression_constructs_its_value(text, value):
    assert expressions.evaluate(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Moun()", "unknown name 'Moun' in 'Moun\\(\\)' \\(did you mean 'Muon'\\?\\)"),
        ("Muon", "'Muon' in 'Muon' is neither a literal nor a call"),
        (
            "Muon(learning_rte=1)",
            "no field 'learning_rte' \\(did you mean 'learning_rate'\\?\\); it has learning_rate, ",
        ),
        ("Cosine(1, 2, 0.5, 4)", "Cosine takes at most 3 values, got 4"),
        ("Cosine(1, warmup_steps=2)", "Cosine got 'warmup_steps' twice"),
        ("Bidirectional()", "Bidirectional in 'Bidirectional\\(\\)' needs mixer"),
        ("Cosine(decay_steps=0)", "decay_steps must be positive, got 0"),
        ("Muon(", "cannot read 'Muon\\(': '\\(' was never closed"),
        ("Muon(**{})", "is code"),
        ("__import__('os').system('true')", "is code"),
        ("GLA.layer(8)", "is code"),
        ("Cosine(decay_steps=10 * 10)", "'10 \\* 10' in .* is code"),
        ("(lambda: 1)()", "is code"),
        ("Optimizer()", "unknown name 'Optimizer'"),
        ("LanguageModel()", "unknown name 'LanguageModel'"),
    ],
)
def test_other_expressions_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        expressions.evaluate(text)


def test_settings_that_hold_configs_take_expressions():
    """Later settings change what an expression has made; a setting of text is never read as an expression."""
    config, rest = expressions.apply(
        presets.tiny(),
        [
            *("--model.pattern", "GLA(num_heads=2)", "--model.projection=None", "--steps", "3"),
            *("--optimizer", "AdamW(learning_rate=0.5)", "--optimizer.schedule", "Cosine(5, 50)"),
            *("--data.path", "Muon()", "--plan"),
        ],
    )
    assert config.model.pattern == (GLA(num_heads=2),)
    assert config.model.projection is None
    assert config.optimizer == AdamW(learning_rate=0.5, schedule=Cosine(warmup_steps=5, decay_steps=50))
    assert rest == ["--steps", "3", "--data.path", "Muon()", "--plan"]


def test_model_objective_and_data_change_together():
    """A config of one of them alone would be refused."""
    config, rest = expressions.apply(
        presets.tiny(),
        [
            *("--objective", "Regression()", "--data", "TaskData(Adding(length=20))"),
            *("--model", "RegressorConfig(dim=8, pattern=(LRU(),), pooling='none')"),
        ],
    )
    assert (config.objective, config.data, rest) == (Regression(), TaskData(task=Adding(length=20)), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer", "GLA()"], "--optimizer must be Optimizer, got GLA"),
        (["--optimizer", "(Muon(), Muon())"], "--optimizer must be Optimizer, got \\(Muon"),
        (["--optimizer.schedule", "3"], "--optimizer.schedule must be Schedule, got 3"),
        (["--model.pattern", "(GLA(), 3)"], "--model.pattern must be several of .*, got 3"),
        (["--optimizer", "None"], "--optimizer must be Optimizer, got None"),
    ],
)
def test_expression_of_another_class_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        expressions.apply(presets.tiny(), words)


MINE = """
from train import presets
from train.optimizers import Lion
import dataclasses

def small_lion():
    '''A tiny model, trained by Lion.'''
    return dataclasses.replace(presets.tiny(), optimizer=Lion())

def nothing():
    return 3
"""


def test_preset_of_a_users_file(tmp_path, monkeypatch, capsys):
    """FILE.py:FUNCTION describes itself as a preset does, with expressions and settings on top."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine_of_test.py"
    file.write_text(textwrap.dedent(MINE))
    expression = ["--model.pattern", "(GLA(num_heads=2),)"]
    assert main([f"{file}:small_lion", "--describe", *expression, "--optimizer.beta1", "0.8"]) == 0
    out = capsys.readouterr().out
    assert "0_gla" in out
    assert "opt_state/1/0/mu" in out
    assert "opt_state/1/0/nu" not in out  # Lion has one moment


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "{file}:small_lian",
            "no function 'small_lian' \\(did you mean 'small_lion'\\?\\); it has small_lion, ",
        ),
        ("{file}x.py:small_lion", "does not exist"),
        ("{file}:nothing", "must return a TrainConfig, got 3"),
        ("defualt", "unknown preset 'defualt'"),
    ],
)
def test_missing_presets_are_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"mine_{tmp_path.name[-1]}.py"
    file.write_text(MINE)
    with pytest.raises(ValueError, match=message):
        presets.find(name.format(file=file))()


def test_help_lists_what_expressions_may_be(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["tiny", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for line in (
        "--adapter: InitialState, LoRA",
        "--start: Pretrained, Random, Run",
        "--parametrization: MuP, Standard",
    ):
        assert line in out
