"""From ATen operations to operations of a program: one translator for each, in the table ``TRANSLATORS``."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_any, tree_map

from made_fast.graph import CaptureError, Graph, place_of
from made_fast.program import FUNCTIONS
from made_fast.symbols import Builder, Symbol

__all__ = ["TRANSLATORS", "is_known", "translate"]

aten = torch.ops.aten
Translator = Callable[..., Any]

TRANSLATORS: dict[Any, Translator] = {}


class Refusal(Exception):
    """Why one operation cannot be translated; ``translate`` adds which one and where."""


def translate(graph: Graph, builder: Builder, inputs: tuple[Symbol, ...]) -> list[Any]:
    """Runs a graph on symbols: the results, symbols or constant tensors; what adds to the program goes to the builder.

    Operations without a symbol among their arguments are run as they are, once: whatever does not depend on the input is a
    constant.

    Raises:
        CaptureError: an operation has no translation.
    """
    known: dict[fx.Node, Any] = {}
    symbols = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = symbols[node.name] if node.name in symbols else graph.constants[node.name]
            continue
        if node.op != "call_function":
            raise CaptureError(
                f"module must be of plain operations, but its graph has a node {node.op!r}{place_of(node)}"
            )
        arguments, options = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        try:
            known[node] = _applied(builder, node.target, arguments, options)
        except Refusal as reason:
            raise CaptureError(_message(node, str(reason))) from None
        except (RuntimeError, TypeError, IndexError, NotImplementedError) as error:
            raise CaptureError(_message(node, f"it failed with these arguments ({error})")) from error
    return [None if node is None else known[node] for node in graph.outputs]


def _applied(builder: Builder, target: Any, arguments: Any, options: Any) -> Any:
    if target is operator.getitem or not tree_any(_is_symbol, (arguments, options)):
        return target(*arguments, **options)
    translator = TRANSLATORS.get(target)
    if translator is None:
        raise Refusal("it has no translation")
    return translator(builder, *arguments, **options)


def _message(node: fx.Node, reason: str) -> str:
    name = str(node.target).removesuffix(".default")
    return (
        f"operation {name} on values that depend on the input cannot be captured{place_of(node)}: {reason}; linear maps, "
        f"elementwise functions ({', '.join(FUNCTIONS)} and what follows from them), products, indexing and joining can be. "
        "Move other operations out of the module, into the output or into call"
    )


def is_known(target: Any) -> bool:
    """Whether an ATen operation has a translator."""
    return target in TRANSLATORS


def _is_symbol(value: Any) -> bool:
    return isinstance(value, Symbol)


def _symbol(value: Any) -> Symbol:
    return value if isinstance(value, Symbol) else Symbol.constant(value)


def _translates(*targets: Any) -> Callable[[Translator], Translator]:
    def added(function: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(targets, function))
        return function

    return added


# ---- what moves elements: the operation itself, on references, scales and shifts


def _moving(target: Any, places: tuple[int, ...] = (0,)) -> Translator:
    """An operation whose arguments at ``places`` are moved about and nothing else."""

    def moved(_: Builder, *arguments: Any, **options: Any) -> Any:
        own = [
            tree_map(_symbol, each, is_leaf=_is_symbol) if place in places else each
            for place, each in enumerate(arguments)
        ]
        if tree_any(_is_symbol, (own[max(places) + 1 :], options)) or tree_any(
            _is_symbol, [each for place, each in enumerate(own) if place not in places]
        ):
            raise Refusal("where elements go depends on the input")
        parts = []
        for name in ("reference", "scale", "shift"):
            part = tree_map(
                lambda each, name=name: getattr(each, name) if _is_symbol(each) else each, own, is_leaf=_is_symbol
            )
            parts.append(target(*part, **options))
        if isinstance(parts[0], Tensor):
            return Symbol(*parts)
        return [Symbol(*part) for part in zip(*parts, strict=True)]

    return moved


_MOVED = (
    *(aten.view, aten.reshape, aten._unsafe_view, aten.flatten.using_ints, aten.unflatten.int, aten.permute),
    *(
        aten.transpose.int,
        aten.t,
        aten.numpy_T,
        aten.mT,
        aten.expand,
        aten.squeeze,
        aten.squeeze.dim,
        aten.squeeze.dims,
    ),
    *(aten.unsqueeze, aten.select.int, aten.slice.Tensor, aten.narrow, aten.flip, aten.index_select, aten.index.Tensor),
    *(aten.gather, aten.roll, aten.repeat, aten.repeat_interleave.self_int, aten.split.Tensor, aten.unfold),
    *(aten.split_with_sizes, aten.chunk, aten.unbind.int, aten.diagonal, aten.diag_embed, aten.tril, aten.triu),
    *(
        aten.movedim.int,
        aten.movedim.intlist,
        aten.swapaxes,
        aten.take,
        aten.pixel_shuffle,
        aten.view_as,
        aten.expand_as,
    ),
    *(aten.split_with_sizes_copy, aten.split_copy.Tensor, aten.unbind_copy.int, aten.tile),
)


def _overload(target: Any) -> Any:
    return target.default if isinstance(target, torch._ops.OpOverloadPacket) else target


for _target in _MOVED:
    TRANSLATORS[_overload(_target)] = _moving(_overload(_target))
for _target in (aten.cat.default, aten.stack.default, aten.concat.default, aten.hstack.default):
    TRANSLATORS[_target] = _moving(_target)
for _target in (aten.slice_scatter.default, aten.select_scatter.default, aten.diagonal_scatter.default):
    TRANSLATORS[_target] = _moving(_target, (0, 1))
TRANSLATORS[aten.where.self] = _moving(aten.where.self, (1, 2))
TRANSLATORS[aten.index_put.default] = _moving(aten.index_put.default, (0, 2))


@_translates(aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(builder: Builder, condition: Any, first: Any, second: Any) -> Any:
    return TRANSLATORS[aten.where.self](builder, condition, _symbol(first), _symbol(second))


@_translates(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(builder: Builder, x: Any, mask: Any, value: Any) -> Any:
    return TRANSLATORS[aten.where.self](builder, mask, _symbol(value), _symbol(x))


@_translates(aten.constant_pad_nd.default)
def _constant_pad(builder: Builder, x: Symbol, pad: list[int], value: float = 0) -> Symbol:
    parts = (aten.constant_pad_nd(part, pad, 0) for part in (x.reference, x.scale))
    return Symbol(*parts, aten.constant_pad_nd(x.shift, pad, value))


@_translates(aten.copy.default)
def _copy(builder: Builder, target: Any, source: Any, non_blocking: bool = False) -> Symbol:
    return _symbol(source).expand(target.shape)


@_translates(
    *(
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.contiguous.default,
        aten.lift_fresh_copy.default,
    ),
    *(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default),
    aten.positive.default,
)
def _same(_: Builder, x: Symbol, *arguments: Any, **options: Any) -> Symbol:
    dtypes = [each for each in (*arguments, *options.values()) if isinstance(each, torch.dtype)]
    dtypes += [each.dtype for each in arguments if isinstance(each, Tensor)]
    if any(not dtype.is_floating_point for dtype in dtypes):
        raise Refusal(f"it rounds them to {dtypes[0]}")
    return x


@_translates(
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.native_dropout.default
)
def _dropout(_: Builder, x: Symbol, p: float, train: bool) -> Symbol:
    if train and p > 0:
        raise Refusal("dropout is on even in evaluation mode")
    return x


def _like(target: Any) -> Translator:
    """An operation that asks its first argument for nothing but its shape."""
    return lambda builder, x, *arguments, **options: target(x.shift, *arguments, **options)


for _target in (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.new_zeros.default),
    *(aten.new_ones.default, aten.new_full.default, aten.sym_size.int),
):
    TRANSLATORS[_target] = _like(_target)


@_translates(aten._assert_tensor_metadata.default)
def _nothing(*_: Any, **__: Any) -> None:
    return None


# ---- arithmetic


@_translates(aten.add.Tensor, aten.add.Scalar)
def _add(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    if not _is_symbol(b):
        return a.shifted(torch.as_tensor(b) * alpha)
    if not _is_symbol(a):
        return b.scaled(alpha).shifted(a)
    return builder.add(a, b if alpha == 1 else b.scaled(alpha))


@_translates(aten.sub.Tensor, aten.sub.Scalar)
def _subtract(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    return _add(builder, a, b, -alpha)


@_translates(aten.rsub.Scalar, aten.rsub.Tensor)
def _subtract_from(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Symbol:
    return _add(builder, b, a, -alpha)


@_translates(aten.neg.default)
def _negative(_: Builder, x: Symbol) -> Symbol:
    return x.scaled(-1)


@_translates(aten.mul.Tensor, aten.mul.Scalar)
def _multiply(builder: Builder, a: Any, b: Any) -> Symbol:
    if not _is_symbol(b):
        return a.scaled(b)
    return builder.multiply(a, b) if _is_symbol(a) else b.scaled(a)


@_translates(aten.div.Tensor, aten.div.Scalar)
def _divide(builder: Builder, a: Any, b: Any) -> Symbol:
    if not _is_symbol(b):
        quotient = 1 / torch.as_tensor(b, dtype=torch.float64)
        return a.scaled(quotient)
    return _multiply(builder, a, _reciprocal(builder, b))


@_translates(aten.reciprocal.default)
def _reciprocal(builder: Builder, x: Symbol) -> Symbol:
    return _function(builder, "reciprocal", x)


@_translates(aten.pow.Tensor_Scalar)
def _power(builder: Builder, x: Symbol, exponent: float) -> Symbol:
    if exponent in (0, 1, 2, 3, 4):
        result = Symbol.constant(torch.ones(x.shape)) if exponent == 0 else x
        for _ in range(int(exponent) - 1):
            result = builder.multiply(result, x)
        return result
    if exponent == -1:
        return _reciprocal(builder, x)
    raise Refusal(f"the power {exponent}")


@_translates(aten.square.default)
def _square(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, x)


@_translates(aten.addcmul.default)
def _addcmul(builder: Builder, x: Any, a: Any, b: Any, value: float = 1) -> Symbol:
    product = _multiply(builder, a, b) if _is_symbol(a) or _is_symbol(b) else Symbol.constant(a * b)
    return _add(builder, _symbol(x), product, value)


@_translates(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(builder: Builder, a: Any, b: Any, weight: Any) -> Symbol:
    return _add(builder, _symbol(a), _multiply(builder, _add(builder, _symbol(b), _symbol(a), -1), weight))


# ---- linear maps


@_translates(aten.linear.default)
def _linear(builder: Builder, x: Any, weight: Any, bias: Any = None) -> Symbol:
    if _is_symbol(weight):
        raise Refusal("the weights depend on the input")
    if _is_symbol(bias):
        return _add(builder, _linear(builder, x, weight), bias)
    rows = math.prod(x.shape[:-1])
    matrix = weight if rows == 1 else torch.kron(torch.eye(rows, dtype=torch.float64), weight.double())
    repeated = None if bias is None else bias.repeat(rows)
    shape = (*x.shape[:-1], *weight.shape[:-1])
    return builder.linear(matrix, x.reshape((-1,)), repeated).reshape(shape)


@_translates(aten.mm.default, aten.matmul.default, aten.bmm.default)
def _matmul(builder: Builder, a: Any, b: Any) -> Symbol:
    if _is_symbol(a) and isinstance(b, Tensor) and b.ndim == 2:
        return _linear(builder, a, b.T)
    return _mapped(aten.matmul.default)(builder, a, b)


@_translates(aten.addmm.default, aten.baddbmm.default)
def _addmm(builder: Builder, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Symbol:
    product = _matmul(builder, a, b).scaled(alpha) if _is_symbol(a) or _is_symbol(b) else alpha * (a @ b)
    return _add(builder, _symbol(bias).scaled(beta), _symbol(product))


def _mapped(target: Any) -> Translator:
    """A linear operation on one tensor, by its matrix: the operation applied to each unit vector."""

    def mapped(builder: Builder, *arguments: Any, **options: Any) -> Any:
        places = [place for place, each in enumerate(arguments) if _is_symbol(each)]
        if len(places) != 1 or tree_any(_is_symbol, options):
            raise Refusal("more than one of its arguments depends on the input")
        x = arguments[places[0]]

        def applied(flat: Tensor) -> Tensor:
            own = list(arguments)
            own[places[0]] = flat.reshape(x.shape)
            result: Tensor = target(*own, **options)
            return result

        zero = torch.zeros(x.shift.numel(), dtype=torch.float64)
        base = applied(zero)
        columns = [applied(unit).flatten() - base.flatten() for unit in torch.eye(len(zero), dtype=torch.float64)]
        return builder.linear(torch.stack(columns, dim=1), x.reshape((-1,)), base.flatten()).reshape(base.shape)

    return mapped


for _target in (
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim, aten.cumsum.default),
    *(aten.convolution.default, aten.conv1d.default, aten.conv2d.default, aten.avg_pool1d.default),
    *(aten.avg_pool2d.default, aten.mv.default, aten.dot.default, aten.trace.default, aten.index_add.default),
):
    TRANSLATORS[_target] = _mapped(_target)


@_translates(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    _: Builder, x: Symbol, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Symbol, None, None]:
    if any(map(_is_symbol, (weight, bias, mean, variance))):
        raise Refusal("its weights depend on the input")
    shape = (1, -1, *[1] * (len(x.shape) - 2))
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean * scale + (0 if bias is None else bias)
    return x.scaled(scale.reshape(shape)).shifted(shift.reshape(shape)), None, None


# ---- elementwise functions


def _function(builder: Builder, name: str, x: Symbol) -> Symbol:
    if name not in FUNCTIONS:
        raise Refusal(f"there is no {name} among the functions of a program")
    return builder.elementwise(name, x)


def _same_name(name: str) -> Translator:
    return lambda builder, x: _function(builder, name, x)


for _name in ("relu", "silu", "tanh", "sigmoid", "exp", "reciprocal"):
    if _name in FUNCTIONS:
        TRANSLATORS[getattr(aten, _name).default] = _same_name(_name)


@_translates(aten.leaky_relu.default)
def _leaky_relu(builder: Builder, x: Symbol, slope: float = 0.01) -> Symbol:
    if slope == 0.01:
        return builder.elementwise("leaky_relu", x)
    return _prelu(builder, x, torch.tensor(slope, dtype=torch.float64))


@_translates(aten.prelu.default, aten._prelu_kernel.default)
def _prelu(builder: Builder, x: Symbol, slope: Any) -> Symbol:
    if _is_symbol(slope):
        raise Refusal("its slopes depend on the input")
    if slope.ndim == 1 and slope.numel() > 1:
        slope = slope.reshape(1, -1, *[1] * (len(x.shape) - 2))
    negative = builder.elementwise("relu", x.scaled(-1))
    return builder.add(builder.elementwise("relu", x), negative.scaled(-slope.reshape(slope.shape or (1,))))


@_translates(aten.rrelu.default, aten.rrelu_with_noise_functional.default)
def _rrelu(
    builder: Builder, x: Symbol, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Any:
    if training:
        raise Refusal("it is random even in evaluation mode")
    return _leaky_relu(builder, x, (lower + upper) / 2)


@_translates(aten.elu.default)
def _elu(builder: Builder, x: Symbol, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Symbol:
    inner = x.scaled(input_scale)
    bent = builder.elementwise("elu", inner)
    if alpha == input_scale == 1:
        return bent.scaled(scale)
    positive = builder.elementwise("relu", x)
    negative = builder.add(bent, builder.elementwise("relu", inner).scaled(-1))
    return builder.add(positive, negative.scaled(alpha)).scaled(scale)


@_translates(aten.selu.default)
def _selu(builder: Builder, x: Symbol) -> Symbol:
    return _elu(builder, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@_translates(aten.celu.default)
def _celu(builder: Builder, x: Symbol, alpha: float = 1) -> Symbol:
    return _elu(builder, x, alpha, 1, 1 / alpha)


@_translates(aten.gelu.default)
def _gelu(builder: Builder, x: Symbol, *, approximate: str = "none") -> Symbol:
    if approximate == "none":
        return builder.elementwise("gelu", x)
    cubic = builder.multiply(builder.multiply(x, x), x).scaled(0.044715)
    inner = builder.add(x, cubic).scaled(math.sqrt(2 / math.pi))
    return builder.multiply(builder.elementwise("tanh", inner).shifted(1), x.scaled(0.5))


@_translates(aten.softplus.default)
def _softplus(builder: Builder, x: Symbol, beta: float = 1, threshold: float = 20) -> Symbol:
    if threshold != 20:
        raise Refusal(f"a threshold of {threshold}, other than 20")
    return builder.elementwise("softplus", x.scaled(beta)).scaled(1 / beta)


@_translates(aten.log_sigmoid.default)
def _log_sigmoid(builder: Builder, x: Symbol) -> Symbol:
    return builder.elementwise("softplus", x.scaled(-1)).scaled(-1)


@_translates(aten.mish.default)
def _mish(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, builder.elementwise("tanh", builder.elementwise("softplus", x)))


@_translates(aten.glu.default)
def _glu(builder: Builder, x: Symbol, dim: int = -1) -> Symbol:
    first, second = TRANSLATORS[aten.chunk.default](builder, x, 2, dim)
    return builder.multiply(first, builder.elementwise("sigmoid", second))


@_translates(aten.abs.default)
def _absolute(builder: Builder, x: Symbol) -> Symbol:
    return builder.add(builder.elementwise("relu", x), builder.elementwise("relu", x.scaled(-1)))


@_translates(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def _clamp(builder: Builder, x: Symbol, min: Any = None, max: Any = None) -> Symbol:
    if _is_symbol(min) or _is_symbol(max):
        raise Refusal("its limits depend on the input")
    if min is None and max is None:
        min, max = -1, 1  # of hardtanh, whose limits have defaults
    low, high = (None if each is None else torch.as_tensor(each, dtype=torch.float64) for each in (min, max))
    if high is not None:  # max - relu(max - x), from above first: with max < min the result is max, as in torch
        bounded = x if low is None else builder.elementwise("relu", x.shifted(-low)).shifted(low)
        return builder.elementwise("relu", bounded.scaled(-1).shifted(high)).scaled(-1).shifted(high)
    return builder.elementwise("relu", x.shifted(-low)).shifted(low)


@_translates(aten.clamp_min.default, aten.clamp_min.Tensor)
def _clamp_min(builder: Builder, x: Symbol, low: Any) -> Symbol:
    return _clamp(builder, x, low)


@_translates(aten.clamp_max.default, aten.clamp_max.Tensor)
def _clamp_max(builder: Builder, x: Symbol, high: Any) -> Symbol:
    return _clamp(builder, x, None, high)


@_translates(aten.relu6.default)
def _relu6(builder: Builder, x: Symbol) -> Symbol:
    return _clamp(builder, x, 0, 6)


@_translates(aten.hardsigmoid.default)
def _hard_sigmoid(builder: Builder, x: Symbol) -> Symbol:
    return _clamp(builder, x.shifted(3), 0, 6).scaled(1 / 6)


@_translates(aten.hardswish.default)
def _hard_swish(builder: Builder, x: Symbol) -> Symbol:
    return builder.multiply(x, _hard_sigmoid(builder, x))


def _greater(sign: float) -> Translator:
    def chosen(builder: Builder, a: Any, b: Any) -> Symbol:
        a, b = _symbol(a).scaled(sign), _symbol(b).scaled(sign)
        return builder.add(b, builder.elementwise("relu", builder.add(a, b.scaled(-1)))).scaled(sign)

    return chosen


TRANSLATORS[aten.maximum.default], TRANSLATORS[aten.minimum.default] = _greater(1), _greater(-1)
