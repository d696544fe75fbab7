"""The public functions: check the arguments, choose a backend, call it."""

from __future__ import annotations

import torch
from torch import Tensor

from made_fast import backends, ops
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
        ValueError: shapes or dtypes do not fit together, a name is unknown, or a named backend cannot serve.

    Under autocast and inside the transforms of ``torch.func`` the reference serves, as torch's own linear layer would.
    """
    _check(x, weight, mask, bias, activation)
    name = activation or "identity"
    chosen = backends.choose(backend, device=x.device, dtype=x.dtype)
    plain = torch.is_autocast_enabled(x.device.type) or torch._C._are_functorch_transforms_active()
    if chosen.name == "reference" or plain:
        return reference.masked_linear(x, weight, reference.whole_mask(mask, weight.shape), bias, name)
    if name in ops.FROM_RESULT or not _needs_grad(x, weight, bias):
        return ops.apply(x, weight, mask, bias, name, backend, chosen)
    return FUNCTIONS[name](ops.apply(x, weight, mask, bias, "identity", backend, chosen))


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


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
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"weight must have dtype {x.dtype} like x, got {weight.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])} to match weight, got {tuple(bias.shape)}")
    if activation is not None and activation not in FUNCTIONS:
        raise ValueError(f"activation must be None or one of {', '.join(FUNCTIONS)}, got {activation!r}")
