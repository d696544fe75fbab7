"""Translators of elementwise functions."""

from __future__ import annotations

import math
from typing import Any

import torch

from made_fast.capture.symbols import Builder, Symbol
from made_fast.capture.translators.table import TRANSLATORS, Refusal, Translator, as_symbol, is_symbol, translates
from made_fast.programs.functions import FUNCTIONS

__all__ = ["function_of"]

aten = torch.ops.aten


def function_of(builder: Builder, name: str, x: Symbol) -> Symbol:
    """A function of ``FUNCTIONS``, if there is one of this name."""
    if name not in FUNCTIONS:
        raise Refusal(f"there is no {name} among the functions of a program")
    return builder.elementwise(name, x)


def _same_name(name: str) -> Translator:
    return lambda builder, x: function_of(builder, name, x)


for _name in ("relu", "selu", "silu", "tanh", "sigmoid", "exp"):
    TRANSLATORS[getattr(aten, _name).default] = _same_name(_name)


@translates(aten.leaky_relu.default)
def _leaky_relu(builder: Builder, x: Symbol, slope: float = 0.01) -> Symbol:
    if slope == 0.01:
        return builder.elementwise("leaky_relu", x)
    return _prelu(builder, x, torch.tensor(slope, dtype=torch.float64))


@translates(aten.prelu.default, aten._prelu_kernel.default)
def _prelu(builder: Builder, x: Symbol, slope: Any) -> Symbol:
    if is_symbol(slope):
        raise Refusal("its slopes depend on the input")
    if slope.ndim == 1 and slope.numel() > 1:
        slope = slope.reshape(1, -1, *[1] * (len(x.shape) - 2))
    negative = builder.elementwise("relu", x.scaled(-1))
    return builder.add(builder.elementwise("relu", x), negative.scaled(-slope.reshape(slope.shape or (1,))))


@translates(aten.rrelu.default)
def _rrelu(
    builder: Builder, x: Symbol, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Any:
    if training:
        raise Refusal("it is random even in evaluation mode")
    return _leaky_relu(builder, x, (lower + upper) / 2)


@translates(aten.elu.default)
def _elu(builder: Builder, x: Symbol, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Symbol:
    inner = x.scaled(input_scale)
    bent = builder.elementwise("elu", inner)
    if alpha == input_scale == 1:
        return bent.scaled(scale)
    positive = builder.elementwise("relu", x)
    negative = builder.add(bent, builder.elementwise("relu", inner).scaled(-1))
    return builder.add(positive, negative.scaled(alpha)).scaled(scale)


@translates(aten.celu.default)
def _celu(builder: Builder, x: Symbol, alpha: float = 1) -> Symbol:
    return _elu(builder, x, alpha, 1, 1 / alpha)


@translates(aten.gelu.default)
def _gelu(builder: Builder, x: Symbol, *, approximate: str = "none") -> Symbol:
    if approximate == "none":
        return builder.elementwise("gelu", x)
    cubic = builder.multiply(builder.multiply(x, x), x).scaled(0.044715)
    inner = builder.add(x, cubic).scaled(math.sqrt(2 / math.pi))
    return builder.multiply(builder.elementwise("tanh", inner).shifted(1), x.scaled(0.5))


@translates(aten.softplus.default)
def _softplus(builder: Builder, x: Symbol, beta: float = 1, threshold: float = 20) -> Symbol:
    if threshold != 20:
        raise Refusal(f"a threshold of {threshold}, other than 20")
    return builder.elementwise("softplus", x.scaled(beta)).scaled(1 / beta)


@translates(aten.log_sigmoid.default)
def _log_sigmoid(builder: Builder, x: Symbol) -> Symbol:
    return builder.elementwise("softplus", x.scaled(-1)).scaled(-1)


@translates(aten.softmax.int, aten._softmax.default)
def _softmax(builder: Builder, x: Symbol, *_: Any, **__: Any) -> Symbol:
    raise Refusal("softmax makes probabilities, where outputs take logits: if it is the last operation, leave it out")


@translates(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(builder: Builder, x: Symbol, *_: Any, **__: Any) -> Symbol:
    raise Refusal(
        "if it is the last operation, leave it out: a categorical output takes any logits and means the same by them"
    )


@translates(aten.logit.default)
def _logit(builder: Builder, x: Symbol, eps: float | None = None) -> Symbol:
    inner = None if eps else builder.under("sigmoid", x)
    if inner is None:
        raise Refusal("only the logit of a sigmoid, without eps")
    return inner


@translates(aten.mish.default)
def _mish(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, builder.elementwise("tanh", builder.elementwise("softplus", x)))


@translates(aten.glu.default)
def _glu(builder: Builder, x: Symbol, dim: int = -1) -> Symbol:
    first, second = TRANSLATORS[aten.chunk.default](builder, x, 2, dim)
    return builder.multiply(first, builder.elementwise("sigmoid", second))


@translates(aten.abs.default)
def _absolute(builder: Builder, x: Symbol) -> Symbol:
    return builder.add(builder.elementwise("relu", x), builder.elementwise("relu", x.scaled(-1)))


@translates(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def _clamp(builder: Builder, x: Symbol, min: Any = None, max: Any = None) -> Symbol:
    if is_symbol(min) or is_symbol(max):
        raise Refusal("its limits depend on the input")
    if min is None and max is None:
        min, max = -1, 1  # of hardtanh, whose limits have defaults
    if min is not None:  # min + relu(x - min)
        low = torch.as_tensor(min, dtype=torch.float64)
        x = builder.elementwise("relu", x.shifted(-low)).shifted(low)
    if max is not None:  # max - relu(max - x); if max < min the result is max, as in torch
        high = torch.as_tensor(max, dtype=torch.float64)
        x = builder.elementwise("relu", x.scaled(-1).shifted(high)).scaled(-1).shifted(high)
    return x


@translates(aten.clamp_min.default, aten.clamp_min.Tensor)
def _clamp_min(builder: Builder, x: Symbol, low: Any) -> Symbol:
    return _clamp(builder, x, low)


@translates(aten.clamp_max.default, aten.clamp_max.Tensor)
def _clamp_max(builder: Builder, x: Symbol, high: Any) -> Symbol:
    return _clamp(builder, x, None, high)


@translates(aten.relu6.default)
def _relu6(builder: Builder, x: Symbol) -> Symbol:
    return _clamp(builder, x, 0, 6)


@translates(aten.hardsigmoid.default)
def _hard_sigmoid(builder: Builder, x: Symbol) -> Symbol:
    return _clamp(builder, x.shifted(3), 0, 6).scaled(1 / 6)


@translates(aten.hardswish.default)
def _hard_swish(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, _hard_sigmoid(builder, x))


def _greater(sign: float) -> Translator:
    def chosen(builder: Builder, a: Any, b: Any) -> Symbol:
        a, b = as_symbol(a).scaled(sign), as_symbol(b).scaled(sign)
        return builder.add(b, builder.elementwise("relu", builder.add(a, b.scaled(-1)))).scaled(sign)

    return chosen


TRANSLATORS[aten.maximum.default], TRANSLATORS[aten.minimum.default] = _greater(1), _greater(-1)
