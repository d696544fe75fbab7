"""The steps of an epoch: loss, gradients, the optimizer and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from made_fast.training.layout import Parts
from made_fast.training.processes import Processes

__all__ = ["Steps", "nll_of", "steps_of"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def nll_of(model: nn.Module, x: Tensor, context: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """``-log p(x | context)`` of each row, ``(B,)``; of the true rows, where the network sees others in their place."""
    given = () if context is None else (context,)
    seeing = getattr(model, "_log_prob_seeing", None)
    if seen is not None and seeing is not None:
        return -cast(Tensor, seeing(seen, x, context))
    if seen is not None:
        return -cast(Tensor, cast(Any, model).distribution(seen, *given).log_prob(x))
    return -cast(Tensor, cast(Any, model).log_prob(x, *given))


class Steps:
    """Takes steps, between ``with`` and its end; parameter by parameter, as any module can be trained.

    Args:
        model: see ``fit``.
        average: a copy of it, whose parameters are the moving average.
        optimizer: of parameters of the model.
        processes: that share each minibatch.
    """

    def __init__(
        self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes
    ) -> None:
        self.model, self.optimizer, self.processes = model, optimizer, processes
        self._parameters: list[Tensor] = list(model.parameters())
        self._averages: list[Tensor] = list(average.parameters())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def gradients(self, rows: Parts, seen: Tensor | None = None) -> tuple[float, float]:
        """The mean loss of a minibatch, ``sum(w * nll) / sum(w)``; its gradients are kept for ``update``.

        Args:
            rows: of this process, as the model takes them.
            seen: what the network sees in place of x, or None.

        Returns:
            The loss, and the weight of the rows, those of all processes: how many there are, if they have no weights.
        """
        self.optimizer.zero_grad()
        nll, weight = nll_of(self.model, rows.x, rows.context, seen), rows.weight
        if weight is None:
            total, loss = float(len(nll)), nll.mean()
        else:
            total = float(weight.double().sum())
            loss = (nll * weight).sum() / (total or 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.processes.count == 1:
            return loss.item(), total
        made = [each.grad for each in self._parameters if each.grad is not None]
        return self.processes.average(made, loss.item(), total)

    @torch.no_grad()
    def update(self, keep: float) -> None:
        """One step of the optimizer, after which the average keeps so much of what it was."""
        self.optimizer.step()
        torch._foreach_lerp_(self._averages, self._parameters, 1 - keep)


def steps_of(
    model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes, *, flat: bool
) -> Steps:
    """The quickest way to take steps with a model.

    Args:
        model, average, optimizer, processes: see ``Steps``.
        flat: whether the optimizer is that of ``adamw_of``.
    """
    into = getattr(model, "_nll", None)
    if flat and into is not None and _can_be_flat(list(model.parameters())) and _steps_are_even(optimizer):
        return _FlatSteps(model, average, optimizer, processes, into)
    return Steps(model, average, optimizer, processes)


def _steps_are_even(optimizer: torch.optim.Optimizer) -> bool:
    """Whether those parameters of a group that are trained have had the same number of steps."""
    for group in optimizer.param_groups:
        states = [optimizer.state.get(each) for each in group["params"] if each.requires_grad]
        if len({float(state["step"]) if state else 0.0 for state in states}) > 1:
            return False
    return True


def _can_be_flat(parameters: list[nn.Parameter]) -> bool:
    """Whether they are plain ones of one kind in memory of their own, whose gradients nobody else looks at."""
    kinds = {(type(each), each.dtype, each.device.type, each.is_contiguous()) for each in parameters}
    if len(kinds) != 1 or next(iter(kinds))[2:] != ("cpu", True) or next(iter(kinds))[0] is not nn.Parameter:
        return False
    if any(each._backward_hooks or each._post_accumulate_grad_hooks for each in parameters):
        return False
    places = sorted((each.data_ptr(), each.data_ptr() + each.nbytes) for each in parameters if each.numel())
    return all(left[1] <= right[0] for left, right in pairwise(places))


class _FlatSteps(Steps):
    """The same where a model finds loss and gradients itself: weights, gradients, moments and average are flat meanwhile.

    So AdamW and the average are a few operations however many parameters there are, and the model writes its gradients to
    where AdamW reads them.
    """

    def __init__(
        self,
        model: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        nll: Callable[..., Any],
    ) -> None:
        super().__init__(model, average, optimizer, processes)
        self._nll = nll
        averages = dict(zip(self._parameters, self._averages, strict=True))
        self._is_flat, self._into = False, dict[int, Tensor]()
        frozen = [each for each in self._parameters if not each.requires_grad]
        self._frozen, self._frozen_averages = frozen, [averages[each] for each in frozen]
        self._groups = [_FlatGroup(optimizer, group, averages) for group in optimizer.param_groups]

    def __enter__(self) -> Self:
        self._into = {number: view for group in self._groups for number, view in group.open().items()}
        self._is_flat = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_flat:
            for group in self._groups:
                group.close()
        self._is_flat = False

    def gradients(self, rows: Parts, seen: Tensor | None = None) -> tuple[float, float]:
        """See ``Steps``; what the model cannot do itself goes on parameter by parameter."""
        given = (rows.x, rows.context) if seen is None else (rows.x, rows.context, seen)
        nll = self._nll(*given) if self._is_flat and rows.weight is None else None
        places = None if nll is None else self._places(nll.weights)
        found = None if nll is None or places is None else nll.write_gradients(places)
        if found is None:
            self.__exit__()
            return super().gradients(rows, seen)
        loss, total = found.item(), rows.x.shape[0]  # a third of the time of len
        if self.processes.count == 1:
            return loss, total
        made = [group.gradients for group in self._groups if group.parameters]
        return self.processes.average(made, loss, total)

    def _places(self, weights: list[Tensor]) -> list[Tensor | None] | None:
        """Where the gradients of weights are written; None unless those that are trained are ours, each once."""
        trained = [id(each) for each in weights if each.requires_grad]
        if len(trained) != len(self._into) or self._into.keys() != set(trained):
            return None
        return [self._into[id(each)] if each.requires_grad else None for each in weights]

    @torch.no_grad()
    def update(self, keep: float) -> None:
        """See ``Steps``."""
        if not self._is_flat:
            return super().update(keep)
        for group in self._groups:
            group.update(keep)
        if self._frozen:
            torch._foreach_lerp_(self._frozen_averages, self._frozen, 1 - keep)
        return None


class _FlatGroup:
    """The parameters of one group of an optimizer, as views of one tensor from ``open`` to ``close``."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], averages: dict[Tensor, Tensor]) -> None:
        self.optimizer, self.settings = optimizer, group
        self.parameters = [each for each in group["params"] if each.requires_grad]
        self.averages = [averages[each] for each in self.parameters]

    @torch.no_grad()
    def open(self) -> dict[int, Tensor]:
        """Gathers all; returns where the gradient of each parameter is to be written, by its ``id``."""
        if not self.parameters:
            return {}
        self.owned = [each.data for each in self.parameters]
        self.weights = _flat(self.owned)
        self.average = _flat([each.data for each in self.averages])
        self.gradients = torch.zeros_like(self.weights)
        states = [self.optimizer.state.get(each) for each in self.parameters]
        if all(states):
            self.step = states[0]["step"].clone()  # type: ignore[index]
            self.moments = [_flat([state[name] for state in states]) for name in _MOMENTS]  # type: ignore[index]
        else:
            self.step = torch.zeros(())
            self.moments = [torch.zeros_like(self.weights) for _ in _MOMENTS]
        for parameter, view in zip(self.parameters, self._views(self.weights), strict=True):
            parameter.data = view
        into = self._views(self.gradients)
        return {id(parameter): view for parameter, view in zip(self.parameters, into, strict=True)}

    @torch.no_grad()
    def close(self) -> None:
        """Gives everything back to where it was."""
        if not self.parameters:
            return
        for average, new in zip(self.averages, self._views(self.average), strict=True):
            average.copy_(new)
        moments = [self._views(each) for each in self.moments]
        for number, (parameter, owned) in enumerate(zip(self.parameters, self.owned, strict=True)):
            owned.copy_(parameter.data)
            parameter.data, parameter.grad = owned, None
            self.optimizer.state[parameter] = {
                "step": self.step.clone(),
                **{name: of[number].clone() for name, of in zip(_MOMENTS, moments, strict=True)},
            }

    def update(self, keep: float) -> None:
        """See ``Steps``."""
        if not self.parameters:
            return
        of = self.settings
        beta1, beta2 = of["betas"]
        first, second = self.moments
        adamw(
            [self.weights],
            [self.gradients],
            [first],
            [second],
            [],
            [self.step],
            fused=True,
            beta1=beta1,
            beta2=beta2,
            **{name: of[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")},
        )
        self.average.lerp_(self.weights, 1 - keep)

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([each.numel() for each in self.parameters])
        return [part.view(each.shape) for part, each in zip(parts, self.parameters, strict=True)]


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1) for each in tensors])
