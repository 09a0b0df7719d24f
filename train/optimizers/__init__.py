"""Provides optimizers and schedules as configs that build optax transformations.

    AdamW(learning_rate=6e-3, schedule=Cosine(decay_steps=2400), groups=("recurrence=0.1",)).build(declared)

`base` has what all of them share, `groups` learning rates and decay by role and path, `schedules` the schedules; each
optimizer has a file of its own.
"""

from train.optimizers.adafactor import Adafactor
from train.optimizers.adamw import AdamW
from train.optimizers.base import Optimizer
from train.optimizers.lion import Lion
from train.optimizers.muon import Muon
from train.optimizers.schedule_free import ScheduleFreeAdamW
from train.optimizers.schedules import (
    Constant,
    Cosine,
    Linear,
    OneCycle,
    RangeTest,
    Schedule,
    WarmupStableDecay,
)
from train.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Lion",
    "Muon",
    "OneCycle",
    "Optimizer",
    "RangeTest",
    "Schedule",
    "ScheduleFreeAdamW",
    "WarmupStableDecay",
]
