"""Recipes are configs that fit their presets, trained for equal times."""

import json

import pytest

from eval import recipes
from eval.recipes import GROUPS, Recipe, main, with_steps
from train import presets
from train.optimizers import Constant, Cosine, Muon, ScheduleFreeAdamW


@pytest.mark.parametrize("group", GROUPS)
def test_recipes_are_configs(group):
    configs = [recipe.config() for recipe in GROUPS[group]]
    assert len({repr(config) for config in configs}) == len(configs)
    assert len({config.steps for config in configs}) == 1


def test_recipe_with_other_settings_is_refused():
    with pytest.raises(ValueError, match="a recipe has expressions alone, got --steps 3"):
        Recipe("tiny", ("--steps", "3")).config()


def test_schedule_is_as_long_as_the_training():
    config = with_steps(presets.default(), 600)
    assert (config.steps, config.optimizer.schedule) == (600, Cosine(100, 600, 0.02))
    assert with_steps(presets.default(), 40).optimizer.schedule == Cosine(10, 40, 0.02)
    free = Recipe("default", ("--optimizer", "ScheduleFreeAdamW()")).config()
    assert with_steps(free, 600).optimizer == ScheduleFreeAdamW(schedule=Constant())


def test_page_compares_at_equal_times(tmp_path, monkeypatch, capfd):
    """A recipe whose steps take twice as long has half the steps; the same command trains nothing again."""
    small = ("--model", "ClassifierConfig(dim=8, num_layers=1, pattern=(LRU(state_dim=4),), projection=None)")
    group = (Recipe("digits", small), Recipe("digits", (*small, "--optimizer", "Muon()")))
    monkeypatch.setitem(recipes.GROUPS, "mine", group)
    monkeypatch.setattr(
        recipes, "training_speed", lambda config: 500.0 if isinstance(config.optimizer, Muon) else 1000.0
    )
    words = ["--workdir", str(tmp_path), "--groups", "mine", "--steps", "4"]
    assert main(words) == 0
    page = (tmp_path / "recipes.md").read_text()
    first, second = [line for line in page.splitlines() if line.startswith("| ") and "recipe" not in line]
    seconds = 4 * 64 * 64 / 1000
    assert f"` | 4 | {seconds:.0f} | loss " in first
    assert f"--optimizer 'Muon()'` | 2 | {seconds:.0f} | loss " in second
    assert "accuracy" in second
    assert json.loads((tmp_path / "mine-1" / "config.json").read_text())["steps"] == 2
    monkeypatch.setattr(recipes, "training_speed", None)
    capfd.readouterr()
    assert main(words) == 0
    assert capfd.readouterr().out.count("Nothing to do: the run is at step") == 2
