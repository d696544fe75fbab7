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
    and nflows after ``accelerate``, whose transforms are affine and masked, under a standard normal base. Hooks of modules
    and tensors are called; those on autograd's own nodes, which ``DistributedDataParallel`` puts there, are not seen.

    Args:
        model: has ``log_prob(x)``, or ``log_prob(x, context)`` for a context; or gives a distribution with ``log_prob(x)``
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
    loss = _in_one_call(model, x, context)
    if loss is None:
        loss = -_log_prob(model, x, context).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
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


def _in_one_call(model: Any, x: Tensor, context: Tensor | None) -> Tensor | None:
    """Adds the gradients and returns the loss; None, with nothing done, where autograd must find them."""
    find = getattr(model, "_nll", None)
    given = (x,) if context is None else (x, context)
    if find is None or any(not isinstance(each, Tensor) or each.ndim != 2 or each.requires_grad for each in given):
        return None
    nll = find(x, context)
    if nll is None:
        return None
    made: list[Tensor | None] = []
    fresh: list[tuple[Tensor, Tensor]] = []  # parameters and their first gradients
    old: list[Tensor] = []
    new: list[Tensor] = []  # which are added to the old ones
    trained: set[int] = set()
    for each in nll.weights:
        if not each.requires_grad:
            made.append(None)
            continue
        if not each.is_leaf or each._backward_hooks or each._post_accumulate_grad_hooks or not each.is_contiguous():
            return None
        if id(each) in trained:
            return None  # of a weight that serves twice there is a sum
        trained.add(id(each))
        known, gradient = each.grad, torch.empty_like(each, requires_grad=False)
        made.append(gradient)
        if known is None:
            fresh.append((each, gradient))
        elif known.requires_grad or known.layout != torch.strided or known.dtype != each.dtype:
            return None
        else:
            old.append(known)
            new.append(gradient)
    loss: Tensor | None = nll.write_gradients(made) if trained else None
    if loss is None:
        return None
    for each, gradient in fresh:
        each.grad = gradient
    if old:
        torch._foreach_add_(old, new)
    return loss
