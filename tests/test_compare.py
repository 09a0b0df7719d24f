"""`python -m eval compare`: models of one size, a table of what they did."""

import re

import pytest

from eval.__main__ import main
from eval.compare import cli, models, page
from eval.compare.measure import Result, Trained

SPEEDS = ("training_tokens_per_second", "decode_tokens_per_second")


def result(name, bits):
    return Result(name, 1_000_000, 2_048, bits, 61.5, 6_000.4, 900.6)


@pytest.mark.parametrize("name", ["GLA", "Griffin 2:1"])
def test_models_are_of_one_size(name):
    config = models.fitted(models.PATTERNS[name], 1_000_000)
    # A step of the projections' width is 8 columns of three matrices in every layer.
    assert abs(models.count(config) - 1_000_000) <= models.LAYERS * 3 * 8 * models.DIM / 2
    assert models.state_bytes(config) > 0


def test_every_exported_mixer_is_compared():
    """A wrapper and a layer that is not causal are not compared, every other exported mixer is."""
    assert {"GLA", "KDA", "S4", "Griffin 2:1"} <= set(models.PATTERNS)
    assert "MixerConfig" not in models.PATTERNS
    assert all(block.causal for pattern in models.PATTERNS.values() for block in pattern)
    assert all(type(config).__name__ in models.PATTERNS for config in models.SIZES.values())


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match=r"parameters 10,000 are too few: 4 layers of GLA have \d+,\d+"):
        models.fitted(models.PATTERNS["GLA"], 10_000)


def test_compare_table_has_the_best_first(tmp_path):
    """The table lists the best mixer first, and the page says how it was made."""
    results = [result("worse", 2.5), result("better", 2.25)]
    rows = page.table(results).splitlines()
    assert rows[2] == "| better | 1,000,000 | 2,048 | 6,000 | 901 | 2.250 | 62 |"
    assert rows[3].startswith("| worse |")
    text = page.page(results, 600, "python -m eval compare --steps 600", "a machine", "mixers.png")
    assert "614,400 bytes" in text
    assert "    python -m eval compare --steps 600\n\na machine\n" in text
    page.plot(results, tmp_path / "mixers.png")
    assert (tmp_path / "mixers.png").read_bytes()[1:4] == b"PNG"


def test_compare_reuses_unchanged_runs(tmp_path, monkeypatch, capfd):
    """A trained model is not trained again unless something changed."""
    calls = []

    def stub(name, config, folder):
        calls.append(name)
        if name == "Mamba" and calls.count(name) == 1:
            raise KeyboardInterrupt
        folder.mkdir(parents=True, exist_ok=True)
        return Trained(name, 1_000_000, 2_048, 2.5, 61.5)

    monkeypatch.setattr(cli, "trained", stub)
    monkeypatch.setattr(cli, "timed", lambda row, *_: Result(**vars(row), **dict.fromkeys(SPEEDS, 1.0)))
    words = ["compare", "--workdir", str(tmp_path / "runs"), "--mixers", "GLA", "Mamba", "--steps"]
    assert main([*words, "8"]) == 0
    assert "the same command goes on with Mamba" in capfd.readouterr().out
    assert not (tmp_path / "runs" / "mixers.md").exists()
    assert main([*words, "8"]) == 0
    assert calls == ["GLA", "Mamba", "Mamba"]
    assert (tmp_path / "runs" / "mixers.md").read_text().count("| 2.500 |") == 2
    # Another number of steps, and other code.
    assert main([*words, "9"]) == 0
    assert calls[3:] == ["GLA", "Mamba"]
    monkeypatch.setattr(cli, "versions", lambda: {"git": "another"})
    monkeypatch.setattr(cli.report, "machine", lambda: {})
    monkeypatch.setattr(cli.report, "header", lambda _: "a machine")
    assert main([*words, "9"]) == 0
    assert calls[5:] == ["GLA", "Mamba"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixers", "GLU"], "unknown mixer 'GLU'"),
        (["--steps", "0"], "steps must be positive, got 0"),
        (["--parameters", "-1"], "parameters must be positive, got -1"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path, capfd, flags, message):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--workdir", str(tmp_path / "runs"), *flags])
    assert stopped.value.code == 2
    # tyro may draw a box around it.
    assert re.search(message, " ".join(re.findall(r"[^\s│]+", capfd.readouterr().err)))
    assert not (tmp_path / "runs").exists()
