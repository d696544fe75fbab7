"""The public functions: check the arguments, choose a backend, call it."""

from __future__ import annotations

import torch
from torch import Tensor

from made_fast import masks
from made_fast.backends import reference
from made_fast.program import FUNCTIONS

__all__ = ["masked_linear"]


def masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Linear layer whose connections are limited by a mask: :math:`y = a(x (W \odot M)^\top + b)`.

    Args:
        x: (..., in), any floating dtype and device.
        weight: (out, in), like ``x``. What lies under the mask has no effect and gets a gradient of exactly zero.
        mask: (out, in) bool, on the device of ``x``. Or its degrees, int64 (out + in,), those of the rows first: then
            ``M[i, j] = degrees[i] >= degrees[out + j]``, and the mask itself is never made.
        bias: (out,) like ``x``, or None.
        activation: name of a function in ``made_fast.program.FUNCTIONS``, or None.
        backend: ``"auto"`` or the name of a backend.

    Returns:
        (..., out), like ``x``.

    Raises:
        ValueError: the shapes do not fit together, or a name is unknown.
    """
    _check(x, weight, mask, bias, activation)
    whole = mask if mask.ndim == 2 else masks.connectivity(*mask.split([weight.shape[0], weight.shape[1]]))
    y = reference.masked_linear(x, weight, whole, bias)
    return y if activation is None else FUNCTIONS[activation](y)


def _check(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str | None) -> None:
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        width = x.shape[-1] if x.ndim else "no"
        raise ValueError(f"weight must have shape (out, {width}) to match x, got {tuple(weight.shape)}")
    if mask.ndim == 1:
        if mask.dtype != torch.int64 or mask.shape[0] != sum(weight.shape):
            expected = f"int64 ({sum(weight.shape)},), out + in degrees"
            raise ValueError(f"mask must be {expected} to match weight, got {mask.dtype} {tuple(mask.shape)}")
    elif mask.shape != weight.shape:
        raise ValueError(f"mask must have the shape of weight, {tuple(weight.shape)}, got {tuple(mask.shape)}")
    elif mask.dtype != torch.bool:
        raise ValueError(f"mask must have dtype torch.bool, got {mask.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])} to match weight, got {tuple(bias.shape)}")
    if activation is not None and activation not in FUNCTIONS:
        raise ValueError(f"activation must be None or one of {', '.join(FUNCTIONS)}, got {activation!r}")
