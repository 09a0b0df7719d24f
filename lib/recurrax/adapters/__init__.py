"""Adapters: few parameters that change what a frozen model does, trained and saved alone.

    adapter = LoRA(rank=4)
    own = adapter.init(key, model.config, parameters(model))
    logits, state = Adapted(model, adapter).apply({"params": {**params, "adapter": own}}, tokens)

`base` defines adapters and the model with one; `lora` and `initial_state` have one each; `files` saves and loads them.
"""

from recurrax.adapters.base import ADAPTER, Adapted, Adapter, Materialised, adapted, materialise, merge
from recurrax.adapters.files import load, save
from recurrax.adapters.initial_state import InitialState
from recurrax.adapters.lora import LoRA

__all__ = [
    "ADAPTER",
    "Adapted",
    "Adapter",
    "InitialState",
    "LoRA",
    "Materialised",
    "adapted",
    "load",
    "materialise",
    "merge",
    "save",
]
