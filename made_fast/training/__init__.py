"""Fitting anything that has ``log_prob``."""

from made_fast.training.backward import backward
from made_fast.training.fitting import Epoch, History, TrainingError, evaluate, fit

__all__ = [
    "Epoch",
    "History",
    "TrainingError",
    "backward",
    "evaluate",
    "fit",
]
