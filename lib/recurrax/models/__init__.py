"""Models: mixers and projections composed."""

from recurrax.models.backbone import Backbone, BackboneConfig
from recurrax.models.block import Block, BlockConfig
from recurrax.models.language_model import LanguageModel, LanguageModelConfig
from recurrax.models.readout import Classifier, ClassifierConfig, Regressor, RegressorConfig
from recurrax.models.sampling import generate, prefill, sample
from recurrax.models.states import repeat_rows, select_rows, where_rows
from recurrax.models.table import describe
from recurrax.models.tree import build, parameters

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Block",
    "BlockConfig",
    "Classifier",
    "ClassifierConfig",
    "LanguageModel",
    "LanguageModelConfig",
    "Regressor",
    "RegressorConfig",
    "describe",
    "generate",
    "build",
    "parameters",
    "prefill",
    "repeat_rows",
    "sample",
    "select_rows",
    "where_rows",
]
