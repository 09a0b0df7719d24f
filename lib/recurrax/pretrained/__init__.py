"""Loads published checkpoints as models of this library, and saves models as published checkpoints.

`api` has the two functions. `directory` reads and writes the files. `fields` reads config.json by its types, `rotary`
its rotary positions, `bookkeeping` the fields of all families. `rules` maps single tensors to parameters, `family`
declares a family of checkpoints, `families/` holds one table per family, and `table` places it in a model.
"""

from recurrax.pretrained.api import load, save
from recurrax.pretrained.families import FAMILIES

__all__ = ["FAMILIES", "load", "save"]
