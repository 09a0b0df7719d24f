"""Provide the models that are tried on the tasks: one per mixer, all of one width and depth."""

import dataclasses

import jax
import jax.numpy as jnp

from eval.tasks.baselines import GRU, LSTM
from eval.tasks.rotation import Rotation
from eval.tasks.suite import Setting
from recurrax import mixers
from recurrax.mixers import MixerConfig
from recurrax.models import Classifier, ClassifierConfig, Regressor, RegressorConfig
from recurrax.projections import GLU
from recurrax.tasks import Task

CONV = 4
"""Taps of the short convolutions of layers that match keys: with them a token knows the one before it."""

ATTENTION = mixers.Attention(num_heads=2, max_length=8192)
SINGLE = {"num_heads": 1, "value_head_dim": 16}
MAMBA = mixers.Mamba(state_dim=8)
"""Half the published states: with 16 some of the small tasks take more than their three minutes."""

PATTERNS: dict[str, tuple[MixerConfig, ...]] = {
    "Attention": (ATTENTION,),
    "LRU": (mixers.LRU(state_dim=64),),
    "S4": (mixers.S4(state_dim=16),),
    "S4D": (mixers.S4D(state_dim=16),),
    "S4D-LegS": (mixers.S4D(state_dim=16, init="legs"),),
    "S4D-random": (mixers.S4D(state_dim=16, init="random"),),
    "LSSL": (mixers.LSSL(state_dim=16),),
    "S5": (mixers.S5(state_dim=64),),
    "RGLRU": (mixers.RGLRU(num_heads=2),),
    "HGRN": (mixers.HGRN(),),
    "Mamba": (MAMBA,),
    "Mamba2": (mixers.Mamba2(num_heads=2, state_dim=32),),
    "LinearAttention": (mixers.LinearAttention(num_heads=2),),
    "TransNormer": (mixers.TransNormer(num_heads=2),),
    "RetNet": (mixers.RetNet(num_heads=2),),
    "GLA": (mixers.GLA(num_heads=2, conv_width=CONV),),
    "MLSTM": (mixers.MLSTM(num_heads=2),),
    "DeltaNet": (mixers.DeltaNet(num_heads=2),),
    "DeltaNet-negative": (mixers.DeltaNet(num_heads=2, negative_eigenvalues=True),),
    "GatedDeltaNet": (mixers.GatedDeltaNet(num_heads=2),),
    "DeltaProduct": (mixers.DeltaProduct(num_heads=2),),
    "DeltaProduct-R3": (mixers.DeltaProduct(num_heads=2, num_householder=3),),
    "DeltaProduct-R4": (mixers.DeltaProduct(num_heads=2, num_householder=4),),
    "RWKV7": (mixers.RWKV7(num_heads=2),),
    # A state of K (keys) x 16.
    **{f"GLA-K{k}": (mixers.GLA(**SINGLE, head_dim=k, conv_width=CONV),) for k in (2, 16)},
    **{f"DeltaNet-K{k}": (mixers.DeltaNet(**SINGLE, head_dim=k),) for k in (2, 16)},
    **{f"GatedDeltaNet-K{k}": (mixers.GatedDeltaNet(**SINGLE, head_dim=k),) for k in (2, 16)},
    **{f"Mamba-N{n}": (mixers.Mamba(width=16, state_dim=n),) for n in (2, 16)},
    # Four layers, of which so many are attention.
    "LRU-Attention 1 of 4": (*3 * (mixers.LRU(state_dim=64),), ATTENTION),
    "LRU-Attention 2 of 4": 2 * (mixers.LRU(state_dim=64), ATTENTION),
    "Mamba-Attention": (MAMBA, ATTENTION),
    "Rotation": (Rotation(),),
    "GRU": (GRU(),),
    "LSTM": (LSTM(),),
}


def model_for(setting: Setting, pattern: tuple[MixerConfig, ...]) -> Classifier | Regressor:
    """Return the model that answers at every step, by logits of classes or a number."""
    task = setting.task
    shape = {
        "dim": setting.dim,
        "num_layers": setting.num_layers,
        "pattern": tuple(_with(config, setting.options) for config in pattern),
        "projection": GLU(expansion=2.0) if setting.projection else None,
        "vocab_size": task.vocab_size,
        "pooling": "none",
    }
    if task.num_classes is None:
        return Regressor(RegressorConfig(**shape, num_targets=1))
    return Classifier(ClassifierConfig(**shape, num_classes=task.num_classes))


def _with(config, options):
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in options if name in fields})


def count(model: Classifier | Regressor, task: Task) -> int:
    """Return the number of the model's parameters."""
    inputs = jnp.zeros((1, 1), jnp.int32) if task.features is None else jnp.zeros((1, 1, task.features))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
