"""Scales of real columns: increasing lines from knot to knot, by a mean and a deviation or by quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["SCALINGS", "Scale", "scale_of"]

Array = np.ndarray[Any, Any]
SCALINGS = ("standard", "quantiles")
_FAR = 6.0  # deviations from the mean; a column with values beyond is scaled by quantiles
_KNOTS = 31  # of quantiles, from -3 to 3 deviations of a normal


@dataclass(frozen=True)
class Scale:
    """An increasing map, linear between knots and beyond the outer ones.

    Attributes:
        knots: increasing numbers of the column, two or more.
        places: what they become, increasing.
    """

    knots: tuple[float, ...] = (0.0, 1.0)
    places: tuple[float, ...] = (0.0, 1.0)

    def to(self, numbers: Array) -> Array:
        """(N,) as the model has them."""
        return _along(np.asarray(numbers, dtype=np.float64), self.knots, self.places)

    def back(self, places: Array) -> Array:
        """(N,) as the column has them."""
        return _along(np.asarray(places, dtype=np.float64), self.places, self.knots)

    def slope(self, numbers: Array) -> Array:
        """(N,) the derivative of ``to``."""
        first, slopes = _pieces(np.asarray(numbers, dtype=np.float64), self.knots, self.places)
        return slopes[first]


def _pieces(values: Array, known: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[Array, Array]:
    """The number of the knot before each value, and the slopes between knots."""
    x, y = np.array(known), np.array(wanted)
    first = np.clip(np.searchsorted(x, values, side="right") - 1, 0, len(x) - 2)
    return first, np.diff(y) / np.diff(x)


def _along(values: Array, known: tuple[float, ...], wanted: tuple[float, ...]) -> Array:
    first, slopes = _pieces(values, known, wanted)
    found: Array = np.array(wanted)[first] + (values - np.array(known)[first]) * slopes[first]
    return found


def scale_of(numbers: Array, scaling: str | None) -> Scale:
    """The scale of a column of which these numbers are known, at least two different ones.

    Args:
        numbers: (N,), finite.
        scaling: ``"standard"``, ``"quantiles"``, or None: by quantiles where a number is over six deviations from the mean.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    middle, spread = 0.5 * float(numbers.min() + numbers.max()), float(numbers.max() - numbers.min())
    unit = (numbers - middle) / spread  # whose squares are neither 0 nor infinite
    mean, deviation = middle + spread * float(unit.mean()), spread * float(unit.std())
    if scaling is None:
        scaling = "quantiles" if float(np.abs(numbers - mean).max()) > _FAR * deviation else "standard"
    standard = Scale((mean - deviation, mean + deviation), (-1.0, 1.0))
    if scaling == "standard":
        return standard
    most = float(torch.special.ndtri(torch.tensor(1 - 0.5 / len(numbers), dtype=torch.float64)))
    inner = np.linspace(-3.0, 3.0, _KNOTS)
    places = np.concatenate([[-most], inner[np.abs(inner) < most], [most]])
    levels = torch.special.ndtr(torch.from_numpy(places)).numpy()
    levels[0], levels[-1] = 0.0, 1.0
    knots, first = np.unique(np.quantile(numbers, levels), return_inverse=True)
    if len(knots) < 3:
        return standard
    # Where many cells are equal, several quantiles are: the mean of their places stands for them.
    means = np.bincount(first, weights=places) / np.bincount(first)
    return Scale(tuple(knots.tolist()), tuple(means.tolist()))
