"""Provides published checkpoints as models of this library, and back.

`directory` reads and writes the files. `fields` reads config.json by its types, `rotary` its positions, `bookkeeping`
what every family has. `rules` says how single tensors correspond, `family` what a family of checkpoints is, `families/`
holds one table per family, `table` places it in a model. `api` has the two functions.
"""

from recurrax.pretrained.api import load, save
from recurrax.pretrained.families import FAMILIES

__all__ = ["FAMILIES", "load", "save"]
