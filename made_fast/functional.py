"""The public functions: check the arguments, choose a backend, call it."""

from __future__ import annotations

from torch import Tensor

from made_fast.backends import reference

__all__ = ["masked_linear"]


def masked_linear(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Linear layer whose connections are limited by a mask: :math:`y = x (W \odot M)^\top + b`.

    Args:
        x: (..., in), any floating dtype and device.
        weight: (out, in), like ``x``. What lies under the mask has no effect and gets no gradient.
        mask: (out, in) bool, on the device of ``x``.
        bias: (out,) like ``x``, or None.

    Returns:
        (..., out), like ``x``.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        width = x.shape[-1] if x.ndim else "no"
        raise ValueError(f"weight must have shape (out, {width}) to match x, got {tuple(weight.shape)}")
    if mask.shape != weight.shape:
        raise ValueError(f"mask must have the shape of weight, {tuple(weight.shape)}, got {tuple(mask.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])} to match weight, got {tuple(bias.shape)}")
    return reference.masked_linear(x, weight, mask, bias)
