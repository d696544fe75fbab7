"""Fitting anything that has ``log_prob``."""

from made_fast.training.backward import backward
from made_fast.training.fitting import evaluate, fit
from made_fast.training.history import Epoch, History, TrainingError

__all__ = [
    "Epoch",
    "History",
    "TrainingError",
    "backward",
    "evaluate",
    "fit",
]
