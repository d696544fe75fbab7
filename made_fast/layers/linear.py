"""``masked_linear``, the product under a mask, and ``MaskedLinear``, the layer made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from made_fast.arguments import tensor_of, whole_number, with_values
from made_fast.layers import operators
from made_fast.programs.program import DegreeTerm, Term, copied, masked
from made_fast.tracing import as_made_here, unwatched

__all__ = ["MaskedLinear", "masked_linear"]


class MaskedLinear(nn.Linear):
    r"""``nn.Linear`` with a mask: :math:`y = x (W \odot M)^\top + b`.

    Args:
        in_features, out_features: as for ``nn.Linear``.
        mask: (out, in), bool or 0/1; kept as the bool buffer ``mask``. Or None: then ``forward`` must be given one.
        bias: whether there is a bias.
        conditioning: adds :math:`(U \odot M) 1`, by which the bias can depend on the mask; U is the parameter
            ``mask_weight`` (out, in), zero at first.

    Raises:
        ValueError: the mask has another shape or other values.

    Source of ``conditioning``: Germain et al., MADE, ICML 2015, section 4.3.

    Examples:
        >>> layer = MaskedLinear(3, 2, torch.tensor([[1, 0, 0], [1, 1, 0]]), bias=False)
        >>> x = torch.tensor([0.0, 0.0, 5.0])  # nothing reads the last one
        >>> bool((layer(x) == 0).all())
        True
    """

    mask: Tensor | None
    mask_weight: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mask: Tensor | None = None,
        bias: bool = True,
        *,
        conditioning: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features, out_features = (
            whole_number(*each) for each in (("in_features", in_features), ("out_features", out_features))
        )
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.register_buffer("mask", None if mask is None else self._checked(mask))
        self.register_parameter("mask_weight", nn.Parameter(torch.zeros_like(self.weight)) if conditioning else None)

    def _checked(self, mask: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        with unwatched():  # the weights may be without memory, the mask must have values
            mask = with_values("mask", tensor_of("mask", mask))
            if mask.shape != shape:
                raise ValueError(f"mask must have shape {shape} (out, in), got {tuple(mask.shape)}")
            if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
                raise ValueError("mask must be bool or hold only 0 and 1, got other values")
            if mask.device.type == "cpu":  # torch would start threads, and then no process can be forked
                mask = torch.from_numpy(mask.numpy().astype(bool))
            else:
                mask = mask.to(torch.bool, copy=True)
        return (as_made_here(mask) if mask.device.type == "cpu" else mask).to(self.weight.device)

    def forward(self, input: Tensor, mask: Tensor | None = None, *, activation: str | None = None) -> Tensor:
        """(..., in) -> (..., out), then the activation; with another mask (see ``masked_linear``) than its own if given.

        Raises:
            ValueError: the layer has no mask of its own and none was given.
        """
        mask = self.chosen_mask(mask)
        return masked_linear(input, self.weight, mask, self.bias_under(mask), activation=activation)

    def bias_under(self, mask: Tensor | None = None) -> Tensor | None:
        """The bias (out,) with a mask's own part of it, if the layer has ``conditioning``."""
        if self.mask_weight is None:
            return self.bias
        ones = self.mask_weight.new_ones(1, self.in_features)
        return masked_linear(ones, self.mask_weight, self.chosen_mask(mask), self.bias)[0].to(self.weight.dtype)

    def term(self, source: int, mask: Tensor | None = None, *, copy: bool = True) -> Term:
        """This layer's weights as a term of a program, detached and masked; copies, unless nobody writes to them any more."""
        weight, chosen = self.weight.detach(), self.chosen_mask(mask)
        if chosen.dtype != torch.bool:
            term = DegreeTerm(source, copied(weight) if copy else weight, copied(chosen))
            if copy:
                _ = term.weight  # made now, as it is in other terms
            return term
        own = copied(chosen)
        return Term(source, masked(weight, own), own)

    def chosen_mask(self, mask: Tensor | None) -> Tensor:
        """Another mask, or its degrees, if given; else its own.

        Raises:
            ValueError: it has none of its own and none was given.
        """
        if mask is None:
            mask = self.mask
        if mask is None:
            raise ValueError("mask must be given to a MaskedLinear that has none of its own, got None")
        return mask


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
        activation: name of a function in ``made_fast.programs.ACTIVATIONS``, or None.
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
    return operators.checked(x, weight, mask, bias, activation, backend)
