"""Weights of values or components, and the rule by which one of them is chosen."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from made_fast.backends.numba.jit import jit

__all__ = ["choose", "choose_allowed", "drop", "exponentials"]


@jit
def exponentials(logits, count, temperature, weights):
    """Writes exp((logit - largest) / T); returns the largest logit and the sum."""
    largest, total = np.float64(logits[0]), 0.0
    for k in range(1, count):
        largest = max(largest, np.float64(logits[k]))
    for k in range(count):
        weights[k] = math.exp((logits[k] - largest) / temperature)
        total += weights[k]
    return largest, total


@jit
def choose(weights, count, uniform):
    """The categorical rule: how many running sums are at most ``u * total``, at most the last category of weight > 0."""
    total, last = 0.0, 0
    for k in range(count):
        total += weights[k]
        if weights[k] > 0:
            last = k
    limit, running = uniform * total, 0.0
    for k in range(last):
        running += weights[k]
        if running > limit:
            return k
    return last


@jit
def choose_allowed(nats, count, uniform, allowed, weights):
    """The categorical rule among allowed values, and the log of their share; the first of them where none has a weight.

    ``nats`` are log-weights of any sum; ``weights`` are written, perhaps over them. They are relative to the greatest of all
    or, where that is far above them, to the greatest that is allowed.
    """
    most, most_allowed, first, everything = -np.inf, -np.inf, -1, True
    for k in range(count):
        value = np.float64(nats[k])
        most = max(most, value)
        if allowed[k]:
            most_allowed = max(most_allowed, value)
            first = k if first < 0 else first
        else:
            everything = False
    if most_allowed == -np.inf:
        return max(first, 0), -np.inf
    base = most_allowed if most - most_allowed > 16.0 else most
    whole, kept = 0.0, 0.0
    for k in range(count):
        value = np.float64(nats[k])
        weight = math.exp(value - base)
        whole += weight if base == most else math.exp(value - most)
        weights[k] = weight if allowed[k] else 0.0
        kept += weights[k]
    log_mass = 0.0 if everything else (base - most) + math.log(kept) - math.log(whole)
    return choose(weights, count, uniform), log_mass


@jit
def drop(weights, count, top_k, top_p, ranking):
    """Sets to 0 the weights that ``top_k`` or ``top_p`` drops; among equals the lower number stays."""
    limit, length = (min(top_k, count) if top_k > 0 else count), 0
    for k in range(count):  # insertion into the list of the largest
        place = length
        while place > 0 and weights[k] > weights[int(ranking[place - 1])]:
            if place < limit:
                ranking[place] = ranking[place - 1]
            place -= 1
        if place < limit:
            ranking[place] = k
            length = min(length + 1, limit)
    total, running = 0.0, 0.0
    for rank in range(length):
        total += weights[int(ranking[rank])]
    for rank in range(length):
        k = int(ranking[rank])
        if rank == 0 or running < top_p * total:
            running += weights[k]
            weights[k] = -weights[k]  # the sign marks what stays
    for k in range(count):
        weights[k] = max(-weights[k], 0.0)
