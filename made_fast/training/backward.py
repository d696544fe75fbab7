"""Loss and gradients of a model in one call, for training loops of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["backward"]


def backward(model: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Adds the gradients of the mean of ``-log p(x | context)`` to those of the parameters.

    The numbers are those of ``loss = -model.log_prob(x, context).mean(); loss.backward()``, within rounding. Where one native
    call finds loss and gradients, nothing is recorded for autograd, which takes most of the time of a step of a small flow;
    everything else, a model of any other class too, goes by those two lines.

    Args:
        model: has ``log_prob(x)``, or ``log_prob(x, context)`` for a context.
        x: (B, D), as ``log_prob`` takes it.
        context: (B, C), or None.

    Returns:
        (): the mean in nats a row, without a gradient.

    Raises:
        ValueError: gradients are switched off, or ``log_prob`` refuses the arguments.
    """
    if not torch.is_grad_enabled():
        raise ValueError("backward must be called with gradients enabled, got torch.no_grad or inference_mode")
    found = _in_one_call(model, x, context)
    if found is None:
        of: Any = model
        loss = -(of.log_prob(x) if context is None else of.log_prob(x, context)).mean()
        loss.backward()
        return loss.detach()  # type: ignore[no-any-return]
    loss, trained, gradients = found
    both = list(zip(trained, gradients, strict=True))
    added = [(each.grad, new) for each, new in both if each.grad is not None]
    for parameter, new in both:
        if parameter.grad is None:
            parameter.grad = new
    if added:
        torch._foreach_add_([old for old, _ in added], [new for _, new in added])
    return loss


def _in_one_call(
    model: nn.Module, x: Tensor, context: Tensor | None
) -> tuple[Tensor, list[Tensor], list[Tensor]] | None:
    """Loss, the parameters that are trained, and the gradient of each; None where autograd must find them."""
    find = getattr(model, "_nll", None)
    given = [each for each in (x, context) if each is not None]
    if find is None or any(not isinstance(each, Tensor) or each.ndim != 2 or each.requires_grad for each in given):
        return None
    nll = find(x, context)
    if nll is None:
        return None
    weights = nll.weights
    trained = [each for each in weights if each.requires_grad]
    if len(set(map(id, trained))) != len(trained):
        return None  # of a weight that serves twice there is a sum
    for each in trained:
        if not each.is_leaf or each._backward_hooks or each._post_accumulate_grad_hooks or not each.is_contiguous():
            return None
        if each.grad is not None and (each.grad.requires_grad or each.grad.layout != torch.strided):
            return None
    made = [torch.empty_like(each, requires_grad=False) if each.requires_grad else None for each in weights]
    return nll.write_gradients(made), trained, [each for each in made if each is not None]
