"""Provides objectives: what a model is trained for, as frozen configs with a loss.

NextToken        language models: the next token
Distillation     language models: what teachers make of the same tokens
Masked           classifiers of tokens: tokens that the model does not see
Classification   classifiers: a class per sequence or per step
Regression       regressors: numbers per sequence or per step
"""

from train.objectives.base import Loss, Objective
from train.objectives.classification import Classification
from train.objectives.distillation import Distillation, Match
from train.objectives.masked import Masked
from train.objectives.next_token import NextToken
from train.objectives.regression import Regression

__all__ = ["Classification", "Distillation", "Loss", "Match", "Masked", "NextToken", "Objective", "Regression"]
