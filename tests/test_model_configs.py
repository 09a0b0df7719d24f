"""Models that cannot be are refused, with the value and the choices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from recurrax import mixers, models, projections, tasks
from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models import (
    BlockConfig,
    Classifier,
    ClassifierConfig,
    LanguageModel,
    LanguageModelConfig,
    RegressorConfig,
)
from train.sharding import MeshConfig

SMALL = {"dim": 8, "num_layers": 7, "pattern": (RGLRU(num_heads=2), LRU(state_dim=6), Attention(num_heads=2))}


def config(**changes):
    return LanguageModelConfig(**{**SMALL, "vocab_size": 11, **changes})


def readout(kind, **changes):
    return kind(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config(dim=0), "must be at least 1, got dim=0, num_layers=7"),
        (lambda: config(num_layers=0), "must be at least 1, got dim=8, num_layers=0"),
        (lambda: config(pattern=()), r"pattern must have at least one mixer config, got \(\)"),
        (lambda: config(pattern=("lru",)), r"pattern must be a tuple of mixer or block configs, got \('lru',\)"),
        (lambda: config(projection="glu"), "projection must be the config of a layer, .* got 'glu'"),
        (
            lambda: config(dtype="bfloat"),
            r"unknown dtype 'bfloat' \(did you mean 'bfloat16'\?\); choose one of float32, bf",
        ),
        (lambda: config(dtype="float16"), "unknown dtype 'float16'.*choose one of float32, bfloat16"),
        (
            lambda: config(remat="dot_saveable"),
            r"unknown remat 'dot_saveable' \(did you mean 'dots_saveable'\?\); choose",
        ),
        (lambda: config(remat=""), "unknown remat ''; choose one of nothing_saveable, dots_saveable"),
        (lambda: config(dim=9), "width 9 is not divisible by num_heads 2"),
        (lambda: config(dim=9, pattern=(Attention(num_heads=2),)), "dim 9 is not divisible by num_heads 2"),
        (
            lambda: config(dim=6, pattern=(Attention(num_heads=2),)),
            "turn pairs of channels: head_dim 3 must be even",
        ),
        (lambda: config(vocab_size=0), "vocab_size must be at least 1, got 0"),
        (
            lambda: readout(ClassifierConfig, pooling="lats"),
            r"unknown pooling 'lats' \(did you mean 'last'\?\); choose one",
        ),
        (lambda: readout(ClassifierConfig, pooling="sum"), "unknown pooling 'sum'.*choose one of mean, last, none"),
        (lambda: readout(ClassifierConfig, num_classes=0), "num_classes must be at least 1, got 0"),
        (lambda: readout(RegressorConfig, num_targets=-1), "num_targets must be at least 1, got -1"),
        (lambda: readout(RegressorConfig, vocab_size=0), "vocab_size must be at least 1, got 0"),
    ],
)
def test_bad_model_configs_are_refused(make, message, unchecked_shapes):
    """Bad configs are refused with the value and the choices."""
    with pytest.raises(ValueError, match=message):
        make()


EXPORTED = [cls for package in (mixers, models, projections, tasks) for cls in vars(package).values()]
CONFIGS = {cls for cls in EXPORTED if isinstance(cls, type) and dataclasses.is_dataclass(cls)} | {MeshConfig}
SEQUENCES = sorted(
    ((cls, field.name) for cls in CONFIGS for field in dataclasses.fields(cls) if isinstance(field.default, tuple)),
    key=str,
)


@pytest.mark.parametrize(("cls", "name"), SEQUENCES, ids=lambda value: getattr(value, "__name__", value))
def test_config_takes_lists_for_tuples(cls, name, unchecked_shapes):
    """A config without a hash would fail later, where jit or Linen asks for it."""
    values = getattr(cls(), name)
    made = dataclasses.replace(cls(), **{name: list(values)})
    assert made == cls()
    assert hash(made) == hash(cls())
    with pytest.raises(ValueError, match=f"{name} must be hashable, such as a tuple, got the dict"):
        dataclasses.replace(cls(), **{name: dict.fromkeys(values)})


def test_pattern_of_lists_makes_a_model(unchecked_shapes):
    block = BlockConfig(LRU(state_dim=6), mixer_weights=[1.0, 0.5])
    model = config(pattern=[RGLRU(num_heads=2), block], first=[LRU(state_dim=6)], last=[block])
    assert model.pattern == (RGLRU(num_heads=2), BlockConfig(LRU(state_dim=6), mixer_weights=(1.0, 0.5)))
    tokens = jnp.zeros((1, 3), jnp.int32)
    assert jax.eval_shape(lambda: LanguageModel(model).init(jax.random.key(0), tokens))
    with pytest.raises(ValueError, match="pattern must be hashable, such as a tuple, got the set"):
        config(pattern={RGLRU(num_heads=2)})


@pytest.mark.parametrize("pooling", ["last", "none"])
def test_a_mask_without_a_mean_is_refused(pooling):
    config = ClassifierConfig(dim=8, num_layers=1, pattern=(LRU(state_dim=4),), pooling=pooling)
    with pytest.raises(ValueError, match=f"with pooling '{pooling}' there is none"):
        Classifier(config).init(jax.random.key(0), jnp.zeros((1, 3, 2)), mask=jnp.ones((1, 3)))
