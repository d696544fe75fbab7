"""The public functions: check the arguments, choose a backend, call it."""

from __future__ import annotations

import torch
from torch import Tensor

from made_fast import backends, masks, ops
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
        activation: name of a function in ``made_fast.program.ACTIVATIONS``, or None.
        backend: ``"auto"`` or the name of a backend.

    Returns:
        (..., out), like ``x``.

    Raises:
        ValueError: shapes or dtypes do not fit together, a name is unknown, or a named backend cannot serve.

    Under autocast, in forward mode and inside the transforms of ``torch.func``, ``"auto"`` means the reference.

    Examples:
        >>> import torch
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> masked_linear(torch.tensor([[1.0, 10.0]]), torch.ones(2, 2), mask)
        tensor([[ 1., 11.]])
    """
    ops.check(x, weight, mask, bias, activation)
    name = activation or "identity"
    chosen = backends.choose(backend, device=x.device, dtype=x.dtype)
    only_plain = None if chosen.name == "reference" else ops.why_only_plain(x.device)
    if only_plain is not None and backend != "auto":
        raise ValueError(f"backend {backend!r} cannot be used: {only_plain}")
    if chosen.name == "reference" or only_plain is not None:
        return reference.masked_linear(x, weight, masks.whole_mask(mask, weight.shape), bias, name)
    if name in ops.FROM_RESULT or not _needs_grad(x, weight, bias):
        return ops.apply(x, weight, mask, bias, name, backend, chosen)
    return FUNCTIONS[name](ops.apply(x, weight, mask, bias, "identity", backend, chosen))


def _needs_grad(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    learns = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    return learns and torch.is_grad_enabled()
