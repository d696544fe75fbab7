"""The optimizer of a run: AdamW, or one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from made_fast.arguments import shown

__all__ = ["MakeOptimizer", "adamw_of", "described_optimizer", "optimizer_of"]

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
_UNTOLD = ("params", "initial_lr")  # of a group


def adamw_of(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW of all parameters, with decay on matrices and not on biases."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)  # a quarter of the time


def optimizer_of(model: nn.Module, given: torch.optim.Optimizer | MakeOptimizer) -> torch.optim.Optimizer:
    """An optimizer of one's own, over parameters of the model, where they are now.

    Args:
        model: which it is to train.
        given: the optimizer, or a function that makes it of the parameters.

    Raises:
        ValueError: it is no such thing, has no parameters or others than the model's, or needs a closure.
    """
    parameters = list(model.parameters())
    made: object = given
    if not isinstance(given, torch.optim.Optimizer):
        if not callable(given):
            raise ValueError(
                f"optimizer must be an optimizer or a function that makes one of parameters, got {shown(given)}"
            )
        made = given(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"optimizer must give a torch.optim.Optimizer, got {shown(made)}")
    known, taken = {id(each) for each in parameters}, [p for group in made.param_groups for p in group["params"]]
    others = sum(id(each) not in known for each in taken)
    if others or not taken:
        found = f"{others} others of {len(taken)}" if taken else "none"
        raise ValueError(f"optimizer must have parameters of the model, got {found}")
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError("optimizer must take a step without a closure, got LBFGS")
    if made.state:
        made.load_state_dict(made.state_dict())  # where the parameters are, if they have been moved
    return made


def described_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Its class and what its groups are told, by which a resumed run finds that it has another one."""
    groups = [
        {key: _plain(group[key]) for key in sorted(group) if key not in _UNTOLD} for group in optimizer.param_groups
    ]
    shapes = [[tuple(each.shape) for each in group["params"]] for group in optimizer.param_groups]
    told = ", ".join(f"{key}={value}" for key, value in groups[0].items())
    rest = "" if len(groups) == 1 else f" and {len(groups) - 1} more groups {groups[1:]}"
    return f"{type(optimizer).__name__}({told}){rest} of {sum(math.prod(each) for of in shapes for each in of)} weights"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value
