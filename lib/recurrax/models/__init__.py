"""Models: mixers and projections composed."""

from recurrax.models.backbone import Backbone, BackboneConfig
from recurrax.models.block import Block, BlockConfig
from recurrax.models.language_model import LanguageModel, LanguageModelConfig
from recurrax.models.readout import Classifier, ClassifierConfig, Regressor, RegressorConfig
from recurrax.models.sampling import batch_prompts, generate, prefill, sample
from recurrax.models.states import join_rows, repeat_rows, select_rows, where_rows
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
    "batch_prompts",
    "describe",
    "generate",
    "build",
    "parameters",
    "prefill",
    "join_rows",
    "repeat_rows",
    "sample",
    "select_rows",
    "where_rows",
]
