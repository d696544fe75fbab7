"""The heads of networks in plain torch and masked products: the definition of what one native call of them makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.layers.networks import Call
from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.schedule import Kind

__all__ = ["by_layers"]

_BINARY = {"bernoulli": BernoulliConditional(), "spin": SpinConditional()}


def by_layers(
    calls: Sequence[Call], head: str, floor: float, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """What a head makes of networks one after another; see ``Chain.run``.

    Args:
        calls, head, floor: see there.
        x, context: (B, D) and (B, C) or None.
        weights: those of all networks.
    """
    if head not in _TRANSFORMS:
        params = _parameters(calls[0], x, context, weights)
        if head == "parameters":
            return (params,)
        if head in _BINARY:
            return (_BINARY[head].log_prob(params[..., None], x).sum(-1),)
        if head == "categorical":
            sizes = list(calls[0].wiring.categories)
            parts = zip(x.split(sizes, -1), params.split(sizes, -1), strict=True)
            return (torch.stack([(units * logits.log_softmax(-1)).sum(-1) for units, logits in parts]).sum(0),)
        return (NormalConditional(floor).log_prob(params.unflatten(-1, (-1, 2)), x).sum(-1),)
    total = x.new_zeros(x.shape[:-1])
    first = 0
    for call in calls:
        part = weights[first : first + call.wiring.num_weights]
        x = x if call.reads is None else x[..., call.reads]
        x, log_det = _TRANSFORMS[head](_parameters(call, x, context, part), x, floor)
        total, first = total + log_det, first + len(part)
    return (total - (0.5 * x**2 + LOG_SQRT_2_PI).sum(-1),) if head == "flow" else (x, total)


def _affine(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    shift, scale = NormalConditional(floor).parts(params.unflatten(-1, (-1, 2)))
    return (x - shift) / scale, -torch.log(scale).sum(-1)


def _softplus_scale(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Scale softplus(raw) + floor, parameters raw and shift."""
    raw, shift = params.unflatten(-1, (-1, 2)).unbind(-1)
    scale = F.softplus(raw) + floor
    return _scaled(x, scale, shift), torch.log(scale).sum(-1)


def _softclip_scale(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Scale exp(raw / (1 + |raw / log(floor)|)), between floor and its inverse; parameters shift and raw."""
    shift, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
    log_scale = raw / (1 + (raw / math.log(floor)).abs())
    return _scaled(x, log_scale.exp(), shift), log_scale.sum(-1)


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Of the first variables, those that have parameters; the others as they are."""
    variables = scale.shape[-1]
    scaled = x[..., :variables] * scale + shift
    return torch.cat([scaled, x[..., variables:]], -1) if variables < x.shape[-1] else scaled


_TRANSFORMS = {
    "affine": _affine,
    "flow": _affine,
    "softplus_scale": _softplus_scale,
    "softclip_scale": _softclip_scale,
}


def _parameters(call: Call, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    values: list[Any] = [x, context]
    for wire in call.wiring.wires:
        if wire.kind == Kind.AFFINE:
            bias = None if wire.bias < 0 else weights[wire.bias]
            made: Any = None
            for value, number in wire.terms:
                mask, of = call.masks.get(number), (values[value], weights[number])
                part = F.linear(*of, bias) if mask is None else call.product(*of, mask, bias)
                made, bias = part if made is None else made + part, None
        elif wire.kind == Kind.UNARY:
            made = FUNCTIONS[wire.function](values[wire.left])
        elif wire.kind == Kind.ADD:
            made = values[wire.left] + values[wire.right]
        else:
            made = values[wire.left] * values[wire.right]
        values.append(made)
    return values[-1]  # type: ignore[no-any-return]
