"""The models that are tried on the tasks: one per mixer, all of one width and depth."""

import jax
import jax.numpy as jnp

from eval.tasks.baselines import GRU, LSTM
from recurrax import mixers
from recurrax.mixers import MixerConfig
from recurrax.models import Classifier, ClassifierConfig, Regressor, RegressorConfig
from recurrax.projections import GLU
from recurrax.tasks import Task

CONV = 4
"""Taps of the short convolutions of layers that match keys: with them a token knows the one before it."""

PATTERNS: dict[str, tuple[MixerConfig, ...]] = {
    "Attention": (mixers.Attention(num_heads=2, max_length=4096),),
    "LRU": (mixers.LRU(state_dim=64),),
    "S4": (mixers.S4(state_dim=16),),
    "S4D": (mixers.S4D(state_dim=16),),
    "S5": (mixers.S5(state_dim=64),),
    "RGLRU": (mixers.RGLRU(num_heads=2),),
    "HGRN": (mixers.HGRN(),),
    "Mamba": (mixers.Mamba(state_dim=16),),
    "Mamba2": (mixers.Mamba2(num_heads=2, state_dim=32),),
    "LinearAttention": (mixers.LinearAttention(num_heads=2),),
    "RetNet": (mixers.RetNet(num_heads=2),),
    "GLA": (mixers.GLA(num_heads=2, conv_width=CONV),),
    "MLSTM": (mixers.MLSTM(num_heads=2),),
    "DeltaNet": (mixers.DeltaNet(num_heads=2),),
    "DeltaNet-negative": (mixers.DeltaNet(num_heads=2, negative_eigenvalues=True),),
    "GatedDeltaNet": (mixers.GatedDeltaNet(num_heads=2),),
    "DeltaProduct": (mixers.DeltaProduct(num_heads=2),),
    "RWKV7": (mixers.RWKV7(num_heads=2),),
    "Mamba-Attention": (mixers.Mamba(state_dim=16), mixers.Attention(num_heads=2, max_length=4096)),
    "GRU": (GRU(),),
    "LSTM": (LSTM(),),
}


def model_for(task: Task, pattern: tuple[MixerConfig, ...], dim: int, num_layers: int) -> Classifier | Regressor:
    """What answers at every step: logits of classes, or a number."""
    shape = {
        "dim": dim,
        "num_layers": num_layers,
        "pattern": pattern,
        "projection": GLU(expansion=2.0),
        "vocab_size": task.vocab_size,
        "pooling": "none",
    }
    if task.num_classes is None:
        return Regressor(RegressorConfig(**shape, num_targets=1))
    return Classifier(ClassifierConfig(**shape, num_classes=task.num_classes))


def count(model: Classifier | Regressor, task: Task) -> int:
    """Its parameters."""
    inputs = jnp.zeros((1, 1), jnp.int32) if task.features is None else jnp.zeros((1, 1, task.features))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
