"""Translators of arithmetic and of linear maps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_any

from made_fast.capture.symbols import Builder, Symbol
from made_fast.capture.translators.functions import function_of
from made_fast.capture.translators.table import TRANSLATORS, Refusal, Translator, as_symbol, is_symbol, translates
from made_fast.layers.operators import masked_linear

aten = torch.ops.aten


@translates(aten.add.Tensor, aten.add.Scalar)
def _add(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    x, y = as_symbol(a), as_symbol(b)
    if not is_symbol(b):
        return x.shifted(y.shift * alpha)
    if not is_symbol(a):
        return y.scaled(alpha).shifted(x.shift)
    return builder.add(x, y if alpha == 1 else y.scaled(alpha))


@translates(aten.sub.Tensor, aten.sub.Scalar)
def _subtract(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    return _add(builder, a, b, -alpha)


@translates(aten.rsub.Scalar, aten.rsub.Tensor)
def _subtract_from(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    return _add(builder, b, a, -alpha)


@translates(aten.neg.default)
def _negative(_: Builder, x: Symbol) -> Symbol:
    return x.scaled(-1)


@translates(aten.mul.Tensor, aten.mul.Scalar)
def _multiply(builder: Builder, a: Any, b: Any) -> Symbol:
    x, y = as_symbol(a), as_symbol(b)
    if not is_symbol(b):
        return x.scaled(y.shift)
    return builder.multiply(x, y) if is_symbol(a) else y.scaled(x.shift)


@translates(aten.div.Tensor, aten.div.Scalar)
def _divide(builder: Builder, a: Any, b: Any) -> Symbol:
    if not is_symbol(b):
        return as_symbol(a).scaled(1 / as_symbol(b).shift)
    return _multiply(builder, a, _reciprocal(builder, b))


@translates(aten.reciprocal.default)
def _reciprocal(builder: Builder, x: Symbol) -> Symbol:
    return function_of(builder, "reciprocal", x)


@translates(aten.pow.Tensor_Scalar)
def _power(builder: Builder, x: Symbol, exponent: float) -> Symbol:
    if exponent in (0, 1, 2, 3, 4):
        result = Symbol.constant(torch.ones(x.shape)) if exponent == 0 else x
        for _ in range(int(exponent) - 1):
            result = builder.multiply(result, x)
        return result
    if exponent == -1:
        return _reciprocal(builder, x)
    raise Refusal(f"the power {exponent}")


@translates(aten.square.default)
def _square(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, x)


@translates(aten.addcmul.default)
def _addcmul(builder: Builder, x: Any, a: Any, b: Any, value: float = 1) -> Symbol:
    product = _multiply(builder, a, b) if is_symbol(a) or is_symbol(b) else Symbol.constant(a * b)
    return _add(builder, as_symbol(x), product, value)


@translates(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(builder: Builder, a: Any, b: Any, weight: Any) -> Symbol:
    return _add(builder, as_symbol(a), _multiply(builder, _add(builder, as_symbol(b), as_symbol(a), -1), weight))


# ---- linear maps


@translates(aten.linear.default)
def _linear(builder: Builder, x: Any, weight: Any, bias: Any = None) -> Symbol:
    if is_symbol(weight):
        raise Refusal("the weights depend on the input")
    if is_symbol(bias):
        return _add(builder, _linear(builder, x, weight), bias)
    if not bool(torch.isfinite(weight).all()):
        raise Refusal("its weights must be finite, but there is a nan or inf among them")
    rows = math.prod(x.shape[:-1])
    matrix = weight if rows == 1 else torch.kron(torch.eye(rows, dtype=torch.float64), weight.double())
    repeated = None if bias is None else bias.repeat(rows)
    shape = (*x.shape[:-1], *weight.shape[:-1])
    return builder.linear(matrix, x.reshape((-1,)), repeated).reshape(shape)


@translates(masked_linear)
def _masked_linear(
    builder: Builder, x: Any, weight: Any, mask: Any, bias: Any, activation: str, backend: str
) -> Symbol:
    if any(map(is_symbol, (weight, mask, bias))):
        raise Refusal("the weights depend on the input")
    return builder.elementwise(activation, _linear(builder, x, torch.where(mask, weight, 0), bias))


@translates(aten.mm.default, aten.matmul.default, aten.bmm.default)
def _matmul(builder: Builder, a: Any, b: Any) -> Symbol:
    if is_symbol(a) and isinstance(b, Tensor) and b.ndim == 2:
        return _linear(builder, a, b.T)
    result: Symbol = _mapped(aten.matmul.default)(builder, a, b)
    return result


@translates(aten.addmm.default, aten.baddbmm.default)
def _addmm(builder: Builder, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Symbol:
    product = _matmul(builder, a, b).scaled(alpha) if is_symbol(a) or is_symbol(b) else alpha * (a @ b)
    return _add(builder, as_symbol(bias).scaled(beta), as_symbol(product))


def _mapped(target: Any) -> Translator:
    """A linear operation on one tensor, by its matrix: the operation applied to each unit vector."""

    def mapped(builder: Builder, *arguments: Any, **options: Any) -> Any:
        places = [place for place, each in enumerate(arguments) if is_symbol(each)]
        if len(places) != 1 or tree_any(is_symbol, options):
            raise Refusal("more than one of its arguments depends on the input")
        x = arguments[places[0]]

        def applied(flat: Tensor) -> Tensor:
            filled = list(arguments)
            filled[places[0]] = flat.reshape(x.shape)
            result: Tensor = target(*filled, **options)
            return result

        zero = torch.zeros(x.shift.numel(), dtype=torch.float64)
        base = applied(zero)
        if not len(zero):
            return Symbol.constant(base)
        columns = [applied(unit).flatten() - base.flatten() for unit in torch.eye(len(zero), dtype=torch.float64)]
        return builder.linear(torch.stack(columns, dim=1), x.reshape((-1,)), base.flatten()).reshape(base.shape)

    return mapped


for _target in (
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim, aten.cumsum.default),
    *(aten.convolution.default, aten.conv1d.default, aten.conv2d.default, aten.avg_pool1d.default),
    *(aten.avg_pool2d.default, aten.mv.default, aten.dot.default, aten.trace.default, aten.index_add.default),
):
    TRANSLATORS[_target] = _mapped(_target)


@translates(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    _: Builder, x: Symbol, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Symbol, None, None]:
    if any(map(is_symbol, (weight, bias, mean, variance))):
        raise Refusal("its weights depend on the input")
    shape = (1, -1, *[1] * (len(x.shape) - 2))
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean * scale + (0 if bias is None else bias)
    return x.scaled(scale.reshape(shape)).shifted(shift.reshape(shape)), None, None
