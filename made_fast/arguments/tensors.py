"""Tensors of users: brought into the dtype and on the device of a network, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from made_fast.arguments.numbers import described, shown, why_not_dense
from made_fast.tracing import may_look

__all__ = ["context_like", "finite", "in_dtype", "like_weights", "tensor_of", "whole_tensor", "with_values"]


def tensor_of(name: str, value: object) -> Tensor:
    """The value as a dense tensor of real or whole numbers or flags, in a dtype of its own; tensors as they are.

    Args:
        name: of the argument, for the message.
        value: a torch tensor; or an array of numpy or what gives one, a number, or nested sequences of numbers, which
            become int64 or fp64 on the CPU.

    Raises:
        ValueError: it is no such thing, or a sparse, quantized, nested or complex one.
    """
    if not isinstance(value, Tensor) and isinstance(value, (list, tuple)) and value:
        value = _stacked(value)
    if isinstance(value, Tensor):
        reason = why_not_dense(value)
        if reason:
            raise ValueError(f"{name} must be a dense tensor of real numbers, got {reason}")
        return value
    array = _array_of(value)
    if array is None or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} must be a torch tensor, an array, or numbers in sequences of equal length, got {shown(value)}"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 4 and array.size and int(array.max()) >= 2**63:
        raise ValueError(f"{name} must hold whole numbers below 2**63, got {int(array.max())}")
    kind = array.dtype.kind
    known: Any = {"i": np.int64, "u": np.int64, "b": np.bool_}.get(kind, np.float64)
    if kind == "f" and array.dtype.itemsize < 8:
        known = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=known, order="C"))


def _stacked(value: Any) -> Any:
    """Tensors in a sequence of nothing else are put together, which keeps their gradients."""
    if not all(isinstance(each, Tensor) for each in value):
        return value
    try:
        return torch.stack(tuple(value))
    except (RuntimeError, TypeError):
        return value


def _array_of(value: Any) -> np.ndarray[Any, Any] | None:
    """As an array of numpy, or None; arrays some of whose elements are masked have no numbers there."""
    numeric = isinstance(value, (bool, int, float, list, tuple)) or hasattr(value, "__array__")
    if not numeric or (isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any())):
        return None
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def in_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A dense tensor in a floating dtype: real numbers are rounded, whole numbers must fit.

    Raises:
        ValueError: a whole number is none of those that the dtype has, or a finite number becomes infinite.
    """
    if tensor.dtype == dtype:
        return tensor
    converted = tensor.to(dtype)
    if not tensor.numel() or _fits(tensor, dtype) or not may_look(tensor):
        return converted
    real = tensor.is_floating_point()
    back = converted.double()  # of whole numbers exactly, but for those that int64 does not have
    wrong = (back.isinf() & tensor.isfinite()) if real else (back >= 2**63) | (back.long() != tensor.long())
    if bool(wrong.any()):
        wish = "finite" if real else "whole numbers that are exact"
        first = int(wrong.flatten().nonzero()[0])
        raise ValueError(f"{name} must be {wish} in {dtype}, got {tensor.flatten()[first].item()}")
    return converted


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether all its numbers have a place in a dtype for certain, of real ones a rounded one that is not infinite."""
    known = tensor.dtype
    if known.is_floating_point:
        return torch.finfo(known).max <= torch.finfo(dtype).max
    most = round(2 / torch.finfo(dtype).eps)  # all whole numbers up to here are exact
    if known == torch.bool or torch.iinfo(known).max <= most:
        return True
    if known not in (torch.int64, torch.int32, torch.int16) or not may_look(tensor):
        return False
    low, high = tensor.aminmax()
    return -most <= int(low) and int(high) <= most


def like_weights(name: str, value: object, width: int, weight: Tensor, *, rows: str = "...") -> Tensor:
    """Rows of numbers (..., width) in the dtype and on the device of a network's weights; under autocast in their own.

    Args:
        name: of the argument, for the message.
        value: see ``tensor_of``; what is no tensor is brought to the device of the weights.
        width: of the last dimension.
        weight: any of the weights.
        rows: what the message shows before the width.

    Raises:
        ValueError: it has another shape, is on another device, or cannot be converted; see ``in_dtype``.
    """
    dtype = weight.dtype
    if (
        not isinstance(value, Tensor)
        or value.dtype != dtype
        or value.device != weight.device
        or value.layout is not torch.strided
        or value.is_nested
    ):
        tensor = tensor_of(name, value)
        if not isinstance(value, Tensor):
            tensor = tensor.to(weight.device)
        elif tensor.device != weight.device:
            raise ValueError(f"{name} must be on {weight.device} like the weights, got {tensor.device}")
        _check_width(name, tensor, width, rows)
        keeps = tensor.is_floating_point() and torch.is_autocast_enabled(tensor.device.type)
        return tensor if keeps else in_dtype(name, tensor, dtype)
    _check_width(name, value, width, rows)
    return value


def context_like(value: object, width: int, weight: Tensor, x: Tensor) -> Tensor | None:
    """Contexts (..., C) that broadcast with x (..., D), see ``like_weights``; None for a network that takes none.

    Raises:
        ValueError: there is none where one is taken, or one where none is; or it does not fit.
    """
    if not width:
        if value is not None:
            raise ValueError(f"context must be None for a model without context_features, got {described(value)}")
        return None
    if value is None:
        raise ValueError(f"context must have shape (..., {width}), got None")
    context = like_weights("context", value, width, weight)
    if context.shape[:-1] != x.shape[:-1]:
        try:
            torch.broadcast_shapes(context.shape[:-1], x.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"context must have shape (..., {width}) whose rows broadcast with x, {tuple(x.shape)}, got "
                f"{tuple(context.shape)}"
            ) from None
    return context


def _check_width(name: str, tensor: Tensor, width: int, rows: str) -> None:
    if tensor.shape[-1:] != (width,) or (rows != "..." and tensor.ndim != 2):
        raise ValueError(f"{name} must have shape ({rows}, {width}), got {tuple(tensor.shape)}")


def finite(name: str, tensor: Tensor | None) -> None:
    """Raises ValueError where a number is nan or infinite; not while what is called is recorded."""
    if tensor is not None and may_look(tensor) and not is_finite(tensor):
        raise ValueError(f"{name} must be finite, found nan or inf")


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is nan or infinite."""
    whole = math.isfinite(tensor.detach().sum().item())  # of the sum first: the quickest
    return whole or bool(torch.isfinite(tensor).all())


def with_values(name: str, tensor: Tensor) -> Tensor:
    """The tensor, whose values can be read now.

    Raises:
        ValueError: it has none, on the device meta, under a trace or in a transform of ``torch.func``.
    """
    if not may_look(tensor):
        why = "one on meta" if tensor.is_meta else "one that is traced or transformed"
        raise ValueError(f"{name} must be a tensor whose values can be read, got {why}")
    return tensor.resolve_neg()  # engines read memory, where a negative view has other numbers


def whole_tensor(name: str, value: object, wish: str) -> Tensor:
    """The value as an int64 tensor: of whole numbers of any dtype, as a tensor, an array or a sequence.

    Args:
        name: of the argument, for the message.
        value: see ``tensor_of``.
        wish: what the message says that it must be.

    Raises:
        ValueError: it holds anything else.
    """
    if isinstance(value, range):
        return torch.arange(value.start, value.stop, value.step)
    tensor = tensor_of(name, value)
    empty = tensor.numel() == 0 and not isinstance(value, Tensor)
    if not empty and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise ValueError(f"{name} must be {wish}, got {described(value)}")
    return tensor.to(torch.int64)
