"""Define the compared models: one per mixer and a few hybrids, of one depth, one width and one number of parameters."""

import inspect

import jax
import jax.numpy as jnp

from recurrax import mixers
from recurrax.mixers import MixerConfig
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.projections import GLU
from train.checkpoint import CheckpointConfig
from train.config import EvaluationConfig, LogConfig, TrainConfig
from train.data import VOCAB_SIZE, DataConfig
from train.optimizers import AdamW, Cosine
from train.sharding import MeshConfig

DIM = 128
LAYERS = 4
LENGTH = 256
"""Tokens of a training sequence. The comparison cannot show how layers use longer contexts."""

WINDOW = mixers.Attention(window=LENGTH)

SIZES: dict[str, MixerConfig] = {
    "Attention": WINDOW,
    "LRU": mixers.LRU(state_dim=128),
    "LatentAttention": mixers.LatentAttention(window=LENGTH, rotary_base=10_000.0),
    "Mamba2": mixers.Mamba2(state_dim=64),
    "S5": mixers.S5(state_dim=128),
}
"""Mixers whose default sizes would leave no parameters for the projections, or whose cache is longer than a row."""
HYBRIDS: dict[str, tuple[MixerConfig, ...]] = {
    "Griffin 2:1": (mixers.RGLRU(), mixers.RGLRU(), WINDOW),
    "Samba": (mixers.Mamba(), WINDOW),
    "GatedDeltaNet 3:1": (*3 * (mixers.GatedDeltaNet(),), WINDOW),
    "KDA 3:1": (*3 * (mixers.KDA(),), WINDOW),
}


def _each_alone() -> dict[str, tuple[MixerConfig, ...]]:
    """Return the pattern of one layer for every exported mixer that a language model takes, by its exported name.

    The settings are those of SIZES, else the defaults. Wrappers, whose settings include another mixer, are left out.
    """
    exported = {name: getattr(mixers, name) for name in mixers.__all__}
    patterns = {}
    for name, cls in exported.items():
        is_config = isinstance(cls, type) and issubclass(cls, MixerConfig) and cls is not MixerConfig
        if is_config and all(p.default is not p.empty for p in inspect.signature(cls).parameters.values()):
            config = SIZES.get(name, cls())
            if config.causal:
                patterns[name] = (config,)
    return patterns


PATTERNS: dict[str, tuple[MixerConfig, ...]] = {**_each_alone(), **HYBRIDS}
"""All models that are compared. A mixer that the library exports is compared with no line here."""


def training(name: str, parameters: int, steps: int) -> TrainConfig:
    """Return the training config of the model of that name. Only the mixers and the projections' width differ."""
    return TrainConfig(
        steps=steps,
        model=fitted(PATTERNS[name], parameters),
        data=DataConfig(dataset="python_stdlib", sequence_length=LENGTH, batch_size=4),
        optimizer=AdamW(
            learning_rate=4e-3,
            schedule=Cosine(warmup_steps=min(50, steps // 4), decay_steps=steps, final_fraction=0.02),
        ),
        evaluation=EvaluationConfig(every=steps, batch_size=16, max_batches=32),
        checkpoint=CheckpointConfig(every=max(steps // 4, 1), keep=1),
        log=LogConfig(every=max(min(20, steps // 8), 1)),
        mesh=MeshConfig(data=1),
    )


def fitted(pattern: tuple[MixerConfig, ...], parameters: int) -> LanguageModelConfig:
    """Return the model whose gated projections have the width that brings its parameters nearest to that number.

    Raises:
      ValueError: the mixers alone have more parameters.
    """

    def model(width):
        return LanguageModelConfig(
            vocab_size=VOCAB_SIZE,
            dim=DIM,
            num_layers=LAYERS,
            pattern=pattern,
            projection=GLU(expansion=width / DIM, activation="silu"),
        )

    narrow, wide = count(model(8)), count(model(16))
    width = 8 + 8 * round((parameters - narrow) / (wide - narrow))
    if width < 8:
        names = ", ".join(type(mixer).__name__ for mixer in pattern)
        raise ValueError(f"parameters {parameters:,} are too few: {LAYERS} layers of {names} have {narrow:,}")
    return model(width)


def count(config: LanguageModelConfig) -> int:
    """Return the number of parameters of the model."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_parameters(config)))


def abstract_parameters(config: LanguageModelConfig):
    """Return the parameters as shapes and dtypes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda: LanguageModel(config).init(jax.random.key(0), tokens))["params"]


def state_bytes(config: LanguageModelConfig) -> int:
    """Return the number of bytes of one sequence's state."""
    state = jax.eval_shape(lambda: LanguageModel(config).init_state(1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
