"""What the suite ``paper`` trains: the recipe, and with ``--ablation`` the recipe with one part changed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from made_fast.datasets import Dataset
from made_fast.training import Recipe, recipe

__all__ = ["VARIANTS", "cost_of", "recipe_of"]

RECIPE = "recipe"

# Of ``fit``, where its options are left out.
FIT: dict[str, Any] = {"learning_rate": 1e-3, "averaging": 0.9995, "schedule": "plateau", "patience": 15, "epochs": 200}

# Of ``made-fast demo --table``, but for when the rate falls.
DEMO: dict[str, Any] = {"hidden_features": (64, 64), "batch_size": 32, "learning_rate": 2e-3, "weight_decay": 0.01}
DEMO |= {"averaging": 0.998, "schedule": "plateau", "patience": 20, "epochs": 200}

# Name -> the recipe with one part changed; the members are a part too.
VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    "one member, natural order": lambda r: replace(r, members=1),
    "one member, random order": lambda r: replace(r, members=1, order="random"),
    "one member, the defaults of fit": lambda r: replace(r, members=1, **FIT),
    "one member, as the demo of tables": lambda r: replace(r, members=1, order="natural", **DEMO),
    "natural order in each": lambda r: replace(r, order="natural"),
    "random orders": lambda r: replace(r, order="random"),
    "no direct connections": lambda r: replace(r, direct=False),
    "no hidden layer": lambda r: replace(r, hidden_features=()),
    "two hidden layers": lambda r: replace(r, hidden_features=r.hidden_features * 2),
    "twice as wide": lambda r: replace(r, hidden_features=tuple(2 * width for width in r.hidden_features)),
    "relu": lambda r: replace(r, activation="relu"),
    "weights as they are, not averaged": lambda r: replace(r, averaging=0.0),
    "rate falls on a plateau": lambda r: replace(r, schedule="plateau"),
    "a quarter of the learning rate": lambda r: replace(r, learning_rate=r.learning_rate / 4),
    "no weight decay": lambda r: replace(r, weight_decay=0.0),
    "three times the weight decay": lambda r: replace(r, weight_decay=r.weight_decay * 3),
    "a twentieth of inputs hidden": lambda r: replace(r, input_dropout=0.05),
    "a third of the patience": lambda r: replace(r, patience=max(1, r.patience // 3)),
}


def recipe_of(data: Dataset, *, members: int, epochs: float = 1.0) -> Recipe:
    """The recipe of a set, with so many times its epochs."""
    chosen = recipe(len(data.train), data.features, members=members, image_shape=data.image_shape)
    return replace(chosen, epochs=max(1, round(epochs * chosen.epochs)))


def cost_of(data: Dataset, chosen: Recipe) -> float:
    """Multiply-adds of the training, about; by it the time is divided among sets."""
    widths = (data.features, *chosen.hidden_features, data.features)
    weights = sum(left * right for left, right in pairwise(widths))
    weights += data.features**2 if chosen.direct else 0
    rows = 3 * len(data.train) + len(data.valid)
    return float(chosen.members * chosen.epochs * rows * (weights + 2e4))  # what a step costs besides
