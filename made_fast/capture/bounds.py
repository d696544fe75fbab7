"""What a last function of a module bounds: probabilities, odds and scales are no logits and raw scales, which outputs take.

Found in the captured program, not in values: whether a parameter is one unit, perhaps scaled and shifted, of a function whose
results are bounded. A sum of several units is not looked at, whatever bounds them, so that small weights are no sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Op

__all__ = ["why_no_parameters"]

_NEAR = 0.05  # of an end, as a clamp or a smoothed label leaves it

# Bounds of results, whatever is read; of relu they follow from what it reads, so that clamps are known.
_IMAGES = {
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, torch.inf),
    "exp": (0.0, torch.inf),
}
_MIXTURES = (Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS)


_FUNCTIONS = ("", "relu", "product", *_IMAGES)  # and their numbers
_POSITIVE = torch.tensor([_FUNCTIONS.index(name) for name in ("softplus", "exp", "product")])


class _Bounds(NamedTuple):
    """Of the units of a value: least and greatest result, and the number of the function that makes them, (n,) each."""

    low: Tensor
    high: Tensor
    function: Tensor


def _of(width: int, low: float, high: float, function: str = "") -> _Bounds:
    least, most = (torch.full((width,), end, dtype=torch.float64) for end in (low, high))
    return _Bounds(least, most, torch.full((width,), _FUNCTIONS.index(function)))


def why_no_parameters(ops: Sequence[Op], widths: Sequence[int], conditionals: Sequence[Conditional]) -> str | None:
    """Why the last operation makes no parameters of these conditionals, in words; None if nothing speaks against it.

    Args:
        ops, widths: of the program, see ``Program``.
        conditionals: one for each variable, parameters variable-major.
    """
    last = ops[-1]
    if not isinstance(last, Affine):
        return None
    known, scale = _picked(ops, widths, last)
    for role, places in _roles(conditionals).items():
        chosen = torch.tensor(places)
        varying = scale[chosen] != 0  # the others are constants, which say nothing
        if not bool(varying.any()):
            continue
        chosen = chosen[varying]
        found = _KINDS[role](_Bounds(*(each[chosen] for each in known)), bool((scale[chosen] == 1).all()))
        if found:
            return found
    return None


def _roles(conditionals: Sequence[Conditional]) -> dict[str, list[int]]:
    """The places of the parameters that mean the same, by what that is."""
    found: dict[str, list[int]] = {}
    first = 0
    for each in conditionals:
        if each.code in (Code.BERNOULLI, Code.SPIN):
            found.setdefault("logit", []).append(first)
        elif each.code == Code.CATEGORICAL:
            found.setdefault("logits", []).extend(range(first, first + each.num_params))
        elif each.code == Code.NORMAL:
            found.setdefault("scale", []).append(first + 1)
        elif each.code in _MIXTURES:
            found.setdefault("weights", []).extend(range(first, first + each.components))
            found.setdefault("scale", []).extend(range(first + 2 * each.components, first + 3 * each.components))
        first += each.num_params
    return found


def _logit(found: _Bounds, plain: bool) -> str | None:
    if _within(found, 0, 1):
        return "probabilities, in 0 .. 1, where logits are expected, log(p / (1 - p))"
    if _within(found, -1, 1):
        return "means of spins, in -1 .. 1, where logits are expected, log(p / (1 - p))"
    if plain and _are_positive(found):
        return "odds, above 0, where their logarithms are expected, the logits"
    softplus = bool((found.function == _FUNCTIONS.index("softplus")).all())
    if softplus and bool((found.high == 0).all() and found.low.isneginf().all()):
        return "logarithms of probabilities, below 0, where logits are expected, log(p / (1 - p))"
    return None


def _logits(found: _Bounds, plain: bool) -> str | None:
    if _within(found, 0, 1):
        return "probabilities, in 0 .. 1, where their logarithms are expected, the logits"
    if plain and _are_positive(found):
        return "weights, above 0, where their logarithms are expected, the logits"
    return None


def _scale(found: _Bounds, plain: bool) -> str | None:
    if (plain or _within(found, 0, 1)) and bool((found.low >= 0).all()):
        return "scales, above 0, where raw scales are expected, to which the output applies softplus itself"
    return None


_KINDS: dict[str, Callable[[_Bounds, bool], str | None]] = {
    "logit": _logit,
    "logits": _logits,
    "weights": _logits,
    "scale": _scale,
}


def _within(found: _Bounds, least: float, most: float) -> bool:
    """Whether all lie between two ends, and come near both."""
    low, high = found.low, found.high
    inside = (low >= least) & (high <= most) & (low <= least + _NEAR) & (high >= most - _NEAR)
    return bool(inside.all())


def _are_positive(found: _Bounds) -> bool:
    """Whether all are results of functions that make positive numbers: not of relu, which may end a network of logits."""
    return bool((found.low >= 0).all() and torch.isin(found.function, _POSITIVE).all())


def _picked(ops: Sequence[Op], widths: Sequence[int], op: Affine) -> tuple[_Bounds, Tensor]:
    """Bounds of the rows of an affine operation that are one unit each, scaled and shifted, none of others; and scales (n,).

    The scale of a constant is 0.
    """
    count = len(op.terms[0].weight)
    bias = torch.zeros(count, dtype=torch.float64) if op.bias is None else op.bias.double()
    uses = torch.stack([(term.weight != 0).sum(1) for term in op.terms]).sum(0)
    found = _of(count, -torch.inf, torch.inf)
    scale = torch.full_like(bias, torch.nan)
    for term in op.terms:
        alone = (uses == 1) & (term.weight != 0).any(1)
        if not bool(alone.any()):
            continue
        known = _bounds(ops, widths, term.source)
        unit = (term.weight[alone] != 0).long().argmax(1)
        scale[alone] = factor = term.weight[alone, unit].double()
        ends = torch.stack([known.low[unit] * factor, known.high[unit] * factor])
        found.low[alone], found.high[alone] = ends.amin(0) + bias[alone], ends.amax(0) + bias[alone]
        found.function[alone] = known.function[unit]
    constant = uses == 0
    found.low[constant] = found.high[constant] = bias[constant]
    scale[constant] = 0
    return found, scale


def _bounds(ops: Sequence[Op], widths: Sequence[int], value: int) -> _Bounds:
    """Bounds of the units of a value."""
    width = widths[value]
    op = ops[value - 2] if value > CONTEXT else None
    if isinstance(op, Affine):
        return _picked(ops, widths, op)[0]
    if isinstance(op, Elementwise):
        if op.function in _IMAGES:
            return _of(width, *_IMAGES[op.function], op.function)
        read = _bounds(ops, widths, op.source)
        if op.function == "relu":
            function = torch.where(read.function == 0, _FUNCTIONS.index("relu"), read.function)
            return _Bounds(read.low.relu(), read.high.relu(), function)
        if op.function == "reciprocal" and _is_positive(ops, widths, op.source):
            least, most = (torch.where(end > 0, 1 / end, torch.inf) for end in (read.high, read.low))
            return _Bounds(least, most, torch.full_like(read.function, _FUNCTIONS.index("product")))
    if isinstance(op, Multiply) and all(_is_positive(ops, widths, each) for each in op.sources):
        return _of(width, 0, torch.inf, "product")
    if isinstance(op, Add):
        left, right = (_bounds(ops, widths, each) for each in op.sources)
        return _Bounds(left.low + right.low, left.high + right.high, torch.maximum(left.function, right.function))
    return _of(width, -torch.inf, torch.inf)


def _is_positive(ops: Sequence[Op], widths: Sequence[int], value: int) -> bool:
    """Whether no unit of a value is below 0: of sums too, if nothing in them is."""
    op = ops[value - 2] if value > CONTEXT else None
    if isinstance(op, Affine):
        below = any(bool((term.weight < 0).any()) for term in op.terms)
        below = below or (op.bias is not None and bool((op.bias < 0).any()))
        return not below and all(_is_positive(ops, widths, term.source) for term in op.terms)
    return bool((_bounds(ops, widths, value).low >= 0).all())
