"""Translators of what moves elements: the operation itself is run on references, scales and shifts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_any, tree_map

from made_fast.capture.symbols import Builder, Symbol
from made_fast.capture.translators.table import TRANSLATORS, Refusal, Translator, as_symbol, is_symbol, translates

aten = torch.ops.aten


def _moving(target: Any, places: tuple[int, ...] = (0,)) -> Translator:
    """An operation whose arguments at ``places`` are moved about and nothing else."""

    def moved(_: Builder, *arguments: Any, **options: Any) -> Any:
        prepared = [
            tree_map(as_symbol, each, is_leaf=is_symbol) if place in places else each
            for place, each in enumerate(arguments)
        ]
        if tree_any(is_symbol, (prepared[max(places) + 1 :], options)) or tree_any(
            is_symbol, [each for place, each in enumerate(prepared) if place not in places]
        ):
            raise Refusal("where elements go depends on the input")
        parts = []
        for name in ("reference", "scale", "shift"):
            part = tree_map(
                lambda each, name=name: getattr(each, name) if is_symbol(each) else each, prepared, is_leaf=is_symbol
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


@translates(aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(builder: Builder, condition: Any, first: Any, second: Any) -> Any:
    return TRANSLATORS[aten.where.self](builder, condition, as_symbol(first), as_symbol(second))


@translates(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(builder: Builder, x: Any, mask: Any, value: Any) -> Any:
    return TRANSLATORS[aten.where.self](builder, mask, as_symbol(value), as_symbol(x))


@translates(aten.constant_pad_nd.default)
def _constant_pad(builder: Builder, x: Symbol, pad: list[int], value: float = 0) -> Symbol:
    reference, scale = (aten.constant_pad_nd(part, pad, 0) for part in (x.reference, x.scale))
    return Symbol(reference, scale, aten.constant_pad_nd(x.shift, pad, value))


@translates(aten.copy.default)
def _copy(builder: Builder, target: Any, source: Any, non_blocking: bool = False) -> Symbol:
    return as_symbol(source).expand(target.shape)


@translates(
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
def _same(builder: Builder, x: Symbol, *arguments: Any, **options: Any) -> Symbol:
    dtypes = [each for each in (*arguments, *options.values()) if isinstance(each, torch.dtype)]
    dtypes += [each.dtype for each in arguments if isinstance(each, Tensor)]
    if any(not dtype.is_floating_point for dtype in dtypes):
        raise Refusal(f"it rounds them to {dtypes[0]}")
    builder.rounding = max(builder.rounding, *(torch.finfo(dtype).eps for dtype in dtypes), 0)
    return x


@translates(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.native_dropout.default)
def _dropout(_: Builder, x: Symbol, p: float, train: bool) -> Symbol:
    if train and p > 0:
        raise Refusal("dropout is on even in evaluation mode")
    return x


def _like(target: Any) -> Translator:
    """An operation that reads nothing of its first argument but the shape."""
    return lambda builder, x, *arguments, **options: target(x.shift, *arguments, **options)


for _target in (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.new_zeros.default),
    *(aten.new_ones.default, aten.new_full.default, aten.sym_size.int),
):
    TRANSLATORS[_target] = _like(_target)


@translates(aten._assert_tensor_metadata.default)
def _nothing(*_: Any, **__: Any) -> None:
    return None
