"""Published checkpoints as models of this library, and back.

`rules` says how single tensors correspond, `family` what a family of checkpoints is, `families/` holds one table per
family, `directory` reads and writes the files, `api` has the two functions.
"""

from recurrax.pretrained.api import load, save
from recurrax.pretrained.families import FAMILIES

__all__ = ["FAMILIES", "load", "save"]
