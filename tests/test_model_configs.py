"""Models that cannot be are refused, with the value and the choices."""

import jax
import jax.numpy as jnp
import pytest

from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models import Classifier, ClassifierConfig, LanguageModelConfig, RegressorConfig

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
        (lambda: config(pattern=("lru",)), r"pattern must be a tuple of mixer configs, got \('lru',\)"),
        (lambda: config(projection="glu"), "projection must be a projection config, got 'glu'"),
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
def test_bad_configs_are_refused_with_the_value_and_the_choices(make, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("pooling", ["last", "none"])
def test_a_mask_without_a_mean_is_refused(pooling):
    config = ClassifierConfig(dim=8, num_layers=1, pattern=(LRU(state_dim=4),), pooling=pooling)
    with pytest.raises(ValueError, match=f"with pooling '{pooling}' there is none"):
        Classifier(config).init(jax.random.key(0), jnp.zeros((1, 3, 2)), mask=jnp.ones((1, 3)))
