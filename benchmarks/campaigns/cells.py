"""Counts of cells against what is expected of them: chi-square with both tails, and binomial counts of bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Tested:
    """One test: its name and the probability that chance alone gives something as far off, by both tails."""

    name: str
    p_value: float


def both_tails(lower: float, upper: float) -> float:
    """Too far from what is expected, or too near."""
    return min(1.0, 2 * min(lower, upper))


def chi_square(name: str, counts: Counts, expected: float | NDArray[np.float64] | None = None) -> Tested:
    """Of counts of cells, equally likely if nothing else is said."""
    flat = counts.ravel().astype(np.float64)
    wanted = np.broadcast_to(flat.sum() / flat.size if expected is None else expected, flat.shape)
    assert wanted.min() >= 5, f"{name}: {wanted.min()} expected in a cell is too little"
    statistic = float(((flat - wanted) ** 2 / wanted).sum())
    freedom = flat.size - 1
    return Tested(name, both_tails(float(chi2.cdf(statistic, freedom)), float(chi2.sf(statistic, freedom))))


def bits(name: str, ones: int, total: int) -> Tested:
    """Of ones among fair bits."""
    z = (ones - total / 2) / math.sqrt(total / 4)
    return Tested(name, both_tails(float(norm.cdf(z)), float(norm.sf(z))))


def worst(tests: list[Tested]) -> Tested:
    return min(tests, key=lambda test: test.p_value)


def row_of(what: str, numbers: int, tests: list[Tested], level: float) -> dict[str, Any]:
    """A row of a table: how many tests, the least p-value, and whether one lies below the level of a single test."""
    least = worst(tests)
    return {
        "what": what,
        "numbers": f"{numbers:,}",
        "tests": len(tests),
        "least p-value": f"{least.p_value:.2g} ({least.name})",
        "wrong": sum(test.p_value < level for test in tests),
    }
