"""Loads published checkpoints as models of this library, and saves models as published checkpoints.

`api` has the functions. `directory` reads and writes the files. `fields` reads config.json by its types, `rotary`
its rotary positions, `bookkeeping` the fields of all families. `rules` maps single tensors to parameters, `family`
declares a family of checkpoints, `families/` holds one table per family, and `table` places it in a model. `tokenizer`
encodes and decodes text, with `tokenizer_files` and, for text that is sampled, `streaming`.
"""

from recurrax.pretrained.api import family_of, load, read_arrays, read_config, save
from recurrax.pretrained.families import FAMILIES
from recurrax.pretrained.tokenizer import Tokenizer

__all__ = ["FAMILIES", "Tokenizer", "family_of", "load", "read_arrays", "read_config", "save"]
