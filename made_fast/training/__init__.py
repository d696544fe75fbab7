"""Fitting anything that has ``log_prob``."""

from made_fast.training.backward import backward
from made_fast.training.fitting import evaluate, fit
from made_fast.training.history import Epoch, History, TrainingError
from made_fast.training.recipes import Recipe, Shifted, recipe

__all__ = [
    "Epoch",
    "History",
    "Recipe",
    "Shifted",
    "TrainingError",
    "backward",
    "evaluate",
    "fit",
    "recipe",
]
