"""Models as files: what ``MADE.save`` and ``MADE.load`` write and read."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from made_fast import masks
from made_fast.models import files as checkpoint
from made_fast.outputs.kinds import describe
from made_fast.programs.check import check_masks

if TYPE_CHECKING:
    from made_fast.models.made import MADE

__all__ = ["config_of", "load_model"]


def config_of(model: MADE) -> dict[str, Any]:
    """Returns the arguments that build a model again, as JSON can hold them."""
    names = set(inspect.signature(type(model)).parameters)
    config = {name: getattr(model, name) for name in sorted(names)}
    config["hidden_features"] = list(model.hidden_features)
    return {**config, "output": describe(model.output), "order": model.order.tolist()}


def load_model(kind: type[MADE], path: str | Path) -> MADE:
    """Reads a model file; see ``MADE.load``."""
    state, config = checkpoint.load(path)
    names = set(inspect.signature(kind).parameters)
    if not set(config) <= names:
        raise ValueError(f"{path} was written by another version: unknown {sorted(set(config) - names)}")
    try:
        checkpoint.check_sizes(state, config)
        model = kind(**config)
        model.load_state_dict(state)
        masks.make_order(model.order, model.features)
        if model.ensemble is None:  # an ensemble has checked its degrees, which is enough
            check_masks(model)
        elif not torch.equal(model.order, model.order_of(0)):
            raise ValueError("order must be that of mask 0, found another")
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit its own configuration: {' '.join(str(error).split())}") from error
    floats = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    return model.to(floats[0])
