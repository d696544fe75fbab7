"""Wiring: the operations of a network without its weights, for engines that are handed live ones with each call."""

from __future__ import annotations

from typing import NamedTuple

from made_fast.programs.schedule import Kind

__all__ = ["HEADS", "Wire", "Wiring"]

# What a call of a network makes of its parameters: themselves; z = (x - shift) / scale with its log-determinant; or the
# log-probability of x, which is one-hot for "categorical". The numbers are those of csrc/plan/codes.h.
HEADS = ("parameters", "affine", "flow", "bernoulli", "normal", "spin", "categorical")


class Wire(NamedTuple):
    """One operation; value 0 is x, 1 the context, and operation i makes value 2 + i.

    Attributes:
        kind: AFFINE, UNARY, ADD or MULTIPLY.
        width: units that it makes.
        left, right: numbers of the values that it reads; of an affine one see ``terms``.
        function: of a unary one.
        terms: of an affine one: value and number of the weight, each.
        bias: number of the bias among the weights, or -1.
    """

    kind: Kind
    width: int
    left: int = 0
    right: int = 0
    function: str = "identity"
    terms: tuple[tuple[int, int], ...] = ()
    bias: int = -1


class Wiring(NamedTuple):
    """The operations of a network; the last one makes the parameters.

    Attributes:
        features, context_features: D and C; D is that of all units where x is read one-hot.
        num_weights: how many weights and biases are handed over with each call.
        wires: the operations.
        categories: of each variable the number, if all are categories that are read one-hot; else empty.
    """

    features: int
    context_features: int
    num_weights: int
    wires: tuple[Wire, ...]
    categories: tuple[int, ...] = ()
