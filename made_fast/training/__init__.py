"""Fitting anything that has ``log_prob``."""

from made_fast.training.fitting import evaluate, fit
from made_fast.training.history import Epoch, History, TrainingError

__all__ = [
    "Epoch",
    "History",
    "TrainingError",
    "evaluate",
    "fit",
]
