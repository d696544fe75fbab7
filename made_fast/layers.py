"""MaskedLinear: the layer that MADE is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from made_fast.functional import masked_linear
from made_fast.program import Term

__all__ = ["MaskedLinear"]


class MaskedLinear(nn.Linear):
    r"""``nn.Linear`` with a mask: :math:`y = x (W \odot M)^\top + b`.

    Args:
        in_features, out_features: as for ``nn.Linear``.
        mask: (out, in), bool or 0/1; kept as the bool buffer ``mask``.
        bias: whether there is a bias.

    Raises:
        ValueError: the mask has another shape or other values.
    """

    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mask: Tensor,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        mask = torch.as_tensor(mask)
        if mask.shape != (out_features, in_features):
            raise ValueError(f"mask must have shape {(out_features, in_features)} (out, in), got {tuple(mask.shape)}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("mask must be bool or hold only 0 and 1, got other values")
        self.register_buffer("mask", mask.to(device=self.weight.device, dtype=torch.bool, copy=True))

    def forward(self, input: Tensor, mask: Tensor | None = None, *, activation: str | None = None) -> Tensor:
        """(..., in) -> (..., out), then the activation; with another mask (see ``masked_linear``) than its own if given."""
        mask = self.mask if mask is None else mask
        return masked_linear(input, self.weight, mask, self.bias, activation=activation)

    def term(self, source: int) -> Term:
        """This layer's weights as a term of a program, detached and masked."""
        weight = self.weight.detach()
        return Term(source, torch.where(self.mask, weight, weight.new_zeros(())), self.mask.clone())
