"""Wiring: the operations of a network without its weights, for engines that are handed live ones with each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from made_fast.programs.schedule import Kind

__all__ = ["HEADS", "HEADS_WITH_Z", "MOST_NETWORKS", "Wire", "Wiring", "check_head", "check_networks", "check_wiring"]

MOST_NETWORKS = 64  # one after another in one call: kMostNetworks of csrc/plan/network.h

# What a call of a network makes of its parameters: themselves; z = (x - shift) / scale with its log-determinant; the
# log-probability of x, which is one-hot for "categorical"; or z = x scale + shift with its log-determinant, of two kinds of
# scales (``made_fast.layers.heads``). The numbers are those of csrc/plan/codes.h.
HEADS = (
    *("parameters", "affine", "flow", "bernoulli", "normal", "spin", "categorical"),
    *("softplus_scale", "softclip_scale"),
)
HEADS_WITH_Z = ("affine", "softplus_scale", "softclip_scale")


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


def check_wiring(wiring: Wiring, masks: Mapping[int, Tensor]) -> None:
    """Raises ValueError unless operations read what there is, in sizes that fit; as csrc/plan/network.cpp does.

    Args:
        wiring: the operations.
        masks: by the number of its weight, the mask of each, (out, in).
    """
    _require(wiring.features > 0 and wiring.context_features >= 0, "widths of x and context must be positive")
    _require(0 < len(wiring.wires) <= 126, "a network must have 1 to 126 operations")
    _require(all(count > 0 for count in wiring.categories), "variables must have categories")
    fits = not wiring.categories or sum(wiring.categories) == wiring.features
    _require(fits, "x must have a unit for each category")
    widths = [wiring.features, wiring.context_features]
    used: list[int] = []
    read = set()
    for wire in wiring.wires:
        _require(wire.width > 0, "widths must be positive")
        if wire.kind == Kind.AFFINE:
            _require(0 < len(wire.terms) <= 8, "an affine operation must have 1 to 8 terms")
            _require(-1 <= wire.bias < wiring.num_weights, "a bias must be one of the weights")
            used += [wire.bias] if wire.bias >= 0 else []
        else:
            known = wire.kind in (Kind.UNARY, Kind.ADD, Kind.MULTIPLY)
            _require(known, "an operation is unknown")
            _require(not wire.terms, "only affine operations have terms")
            sides = {"left": wire.left} if wire.kind == Kind.UNARY else {"left": wire.left, "right": wire.right}
            for side, value in sides.items():
                _require(0 <= value < len(widths) and widths[value] == wire.width, f"{side} must fit")
            read |= set(sides.values())
        for value, weight in wire.terms:
            rows, columns = masks[weight].shape if weight in masks else (-1, -1)
            fits = 0 <= value < len(widths) and widths[value] == columns
            _require(fits, "the columns of a weight must be those of its source")
            fits = rows == wire.width and 0 <= weight < wiring.num_weights
            _require(fits, "a weight must fit its operation")
            used.append(weight)
            read.add(value)
        _require(len(used) == len(set(used)), "a weight must be used once")
        widths.append(wire.width)
    _require(read >= set(range(2, len(widths) - 1)), "every value must be read")


def check_networks(wirings: Sequence[Wiring]) -> None:
    """Raises ValueError unless networks can be one after another; this and ``check_head`` as csrc/python/network.cpp does."""
    _require(0 < len(wirings) <= MOST_NETWORKS, f"there must be 1 to {MOST_NETWORKS} networks")
    alike = len({(each.features, each.context_features) for each in wirings}) == 1
    _require(alike, "networks must read variables and a context of the same widths")


def check_head(wirings: Sequence[Wiring], head: str) -> None:
    """Raises ValueError unless a head can be made of networks one after another."""
    affine = head == "flow" or head in HEADS_WITH_Z
    _require(len(wirings) == 1 or affine, "networks one after another must make affine transforms")
    for wiring in wirings:
        made, features = wiring.wires[-1].width, wiring.features
        wanted = features if head in ("bernoulli", "spin", "categorical") else 2 * features
        passed_on = head in ("softplus_scale", "softclip_scale") and made % 2 == 0 and made < 2 * features
        fits = head == "parameters" or made == wanted or passed_on
        _require(fits, "the last operation must make what the head reads")
        _require(head != "categorical" or bool(wiring.categories), "a head of categories must know them")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
