"""The models that are compared: one per mixer and a few hybrids, all of one depth, width and number of parameters."""

import jax
import jax.numpy as jnp

from recurrax import mixers
from recurrax.mixers import MixerConfig
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.projections import GLU
from train.checkpoint import CheckpointConfig
from train.config import EvaluationConfig, LogConfig, OptimizerConfig, TrainConfig
from train.data import VOCAB_SIZE, DataConfig
from train.sharding import MeshConfig

DIM = 128
LAYERS = 4
LENGTH = 256
"""Tokens of a training sequence. What looks farther back than this is nobody's strength here."""

WINDOW = mixers.Attention(window=LENGTH)

# Every layer as its paper has it, but for sizes that would leave no parameters for the projections.
PATTERNS: dict[str, tuple[MixerConfig, ...]] = {
    "Attention": (WINDOW,),
    "LatentAttention": (mixers.LatentAttention(window=LENGTH, rotary_base=10_000.0),),
    "LinearAttention": (mixers.LinearAttention(),),
    "Lightning": (mixers.Lightning(),),
    "TransNormer": (mixers.TransNormer(),),
    "TransNormerLLM": (mixers.TransNormerLLM(),),
    "RetNet": (mixers.RetNet(),),
    "LightNet": (mixers.LightNet(),),
    "GLA": (mixers.GLA(),),
    "HGRN2": (mixers.HGRN2(),),
    "Mamba2": (mixers.Mamba2(state_dim=64),),
    "MLSTM": (mixers.MLSTM(),),
    "DeltaNet": (mixers.DeltaNet(),),
    "GatedDeltaNet": (mixers.GatedDeltaNet(),),
    "KDA": (mixers.KDA(),),
    "DeltaProduct": (mixers.DeltaProduct(),),
    "RWKV7": (mixers.RWKV7(),),
    "LRU": (mixers.LRU(state_dim=128),),
    "S5": (mixers.S5(state_dim=128),),
    "S4D": (mixers.S4D(),),
    "S4": (mixers.S4(),),
    "LSSL": (mixers.LSSL(),),
    "LMU": (mixers.LMU(),),
    "RGLRU": (mixers.RGLRU(),),
    "HGRN": (mixers.HGRN(),),
    "Mamba": (mixers.Mamba(),),
    "Griffin 2:1": (mixers.RGLRU(), mixers.RGLRU(), WINDOW),
    "Samba": (mixers.Mamba(), WINDOW),
    "GatedDeltaNet 3:1": (*3 * (mixers.GatedDeltaNet(),), WINDOW),
    "KDA 3:1": (*3 * (mixers.KDA(),), WINDOW),
}


def training(name: str, parameters: int, steps: int) -> TrainConfig:
    """How the model of that name is trained: all alike but for the mixers and the projections' width."""
    return TrainConfig(
        steps=steps,
        model=fitted(PATTERNS[name], parameters),
        data=DataConfig(dataset="python_stdlib", sequence_length=LENGTH, batch_size=4),
        optimizer=OptimizerConfig(
            learning_rate=4e-3, warmup_steps=min(50, steps // 4), decay_steps=steps, final_fraction=0.02
        ),
        evaluation=EvaluationConfig(every=steps, batch_size=16, max_batches=32),
        checkpoint=CheckpointConfig(every=max(steps // 4, 1), keep=1),
        log=LogConfig(every=max(min(20, steps // 8), 1)),
        mesh=MeshConfig(data=1),
    )


def fitted(pattern: tuple[MixerConfig, ...], parameters: int) -> LanguageModelConfig:
    """The model whose gated projections are as wide as brings its parameters nearest to that number.

    Raises:
      ValueError: the mixers alone have more.
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
    """Parameters of the model."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_parameters(config)))


def abstract_parameters(config: LanguageModelConfig):
    """Their shapes and dtypes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda: LanguageModel(config).init(jax.random.key(0), tokens))["params"]


def state_bytes(config: LanguageModelConfig) -> int:
    """What one sequence's state takes."""
    state = jax.eval_shape(lambda: LanguageModel(config).init_state(1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
