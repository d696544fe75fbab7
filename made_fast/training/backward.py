"""Loss and gradients of a model in one call, for training loops of one's own."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

__all__ = ["backward"]


def backward(model: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Adds the gradients of the mean of ``-log p(x | context)`` to those of the parameters.

    The numbers are those of ``loss = -model.log_prob(x, context).mean(); loss.backward()``, within rounding. Where one native
    call finds loss and gradients, nothing is recorded for autograd, which takes most of the time of a step of a small flow;
    everything else, a model of any other class too, goes by those two lines. One call are our own models, and flows of zuko
    and nflows after ``accelerate``, whose transforms are affine and masked, under a standard normal base.

    Args:
        model: has ``log_prob(x)``, or ``log_prob(x, context)`` for a context; or gives a distribution that has ``log_prob(x)``
            when it is called, as flows of zuko are, or conditioned, as those of pyro are.
        x: (B, D), as ``log_prob`` takes it.
        context: (B, C), or None.

    Returns:
        (): the mean in nats a row, without a gradient.

    Raises:
        ValueError: gradients are switched off, ``log_prob`` refuses the arguments, or model has no density.
    """
    if not torch.is_grad_enabled():
        raise ValueError("backward must be called with gradients enabled, got torch.no_grad or inference_mode")
    found = _in_one_call(model, x, context)
    if found is None:
        loss = -_log_prob(model, x, context).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    loss, trained, gradients = found
    both = list(zip(trained, gradients, strict=True))
    added = [(each.grad, new) for each, new in both if each.grad is not None]
    for parameter, new in both:
        if parameter.grad is None:
            parameter.grad = new
    if added:
        torch._foreach_add_([old for old, _ in added], [new for _, new in added])
    return loss


def _log_prob(model: Any, x: Tensor, context: Tensor | None) -> Tensor:
    """The log-probabilities, (B,), by the model's own way to them."""
    given = () if context is None else (context,)
    if hasattr(model, "log_prob"):
        return model.log_prob(x, *given)  # type: ignore[no-any-return]
    if given and hasattr(model, "condition"):
        return model.condition(context).log_prob(x)  # type: ignore[no-any-return]
    found = model(*given) if _can_be_called(model, given) else None
    if not hasattr(found, "log_prob"):
        raise ValueError(
            f"model must have log_prob, or give a distribution when it is called without x, got {type(model).__name__}"
        )
    return found.log_prob(x)  # type: ignore[no-any-return, union-attr]


def _can_be_called(model: Any, given: tuple[Any, ...]) -> bool:
    """Whether a model takes these arguments and needs no others."""
    try:
        inspect.signature(getattr(model, "forward", model)).bind(*given)
    except (TypeError, ValueError):
        return False
    return callable(model)


def _in_one_call(model: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, list[Tensor], list[Tensor]] | None:
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
    if not trained or len(set(map(id, trained))) != len(trained):
        return None  # of a weight that serves twice there is a sum
    for each in trained:
        if not each.is_leaf or each._backward_hooks or each._post_accumulate_grad_hooks or not each.is_contiguous():
            return None
        if each.grad is not None and (each.grad.requires_grad or each.grad.layout != torch.strided):
            return None
    made = [torch.empty_like(each, requires_grad=False) if each.requires_grad else None for each in weights]
    loss = nll.write_gradients(made)
    return None if loss is None else (loss, trained, [each for each in made if each is not None])
