"""What rows of a run have in common: columns, a context, weights; and how a batch may be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from made_fast.arguments import described, shown, tensor_of

__all__ = ["Layout", "Parts", "like_model", "parts_of"]

_PARTS = ("x", "context", "weight")


class Parts(NamedTuple):
    """Some rows (B, D), their contexts (B, C) and their weights (B,); None where there are none."""

    x: Tensor
    context: Tensor | None
    weight: Tensor | None

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Parts:
        """What a function makes of each of them that there is."""
        return Parts(*(None if each is None else function(each) for each in self))  # type: ignore[arg-type]


class Layout:
    """What all rows of a run have in common: how many columns, and whether there is a context.

    Args:
        model: says by ``context_features``, if it has that, how many numbers its context has.
    """

    def __init__(self, model: nn.Module) -> None:
        known = getattr(model, "context_features", None)
        self.context: int | None = known if type(known) is int else None
        self.columns, self.first = 0, ""

    def check(self, name: str, names: Sequence[str], parts: Parts) -> None:
        """Raises ValueError unless these rows fit the model and the rows before; for the arguments see ``rows_of``."""
        x, context, weight = parts
        if x.ndim != 2 or not len(x):
            raise ValueError(f"{name} must have shape (N, D) with N of 1 or more, got {tuple(x.shape)}")
        if not self.columns:
            self.columns, self.first = x.shape[1], name
        if x.shape[1] != self.columns:
            like = f"like {self.first}" if name != self.first else "in every batch"
            raise ValueError(f"{name} must have {self.columns} columns {like}, got {x.shape[1]}")
        if context is None and self.context:
            raise ValueError(f"{names[0]} must be given for a model with context_features={self.context}, got None")
        if context is not None:
            if self.context == 0:
                raise ValueError(
                    f"{names[0]} must be None for a model without context_features, got {described(context)}"
                )
            self.context = context.shape[-1] if self.context is None and context.ndim else self.context
            if context.shape != (len(x), self.context):
                raise ValueError(f"{names[0]} must have shape {(len(x), self.context)}, got {tuple(context.shape)}")
        if weight is not None:
            if weight.shape != (len(x),):
                raise ValueError(f"{names[1]} must have shape {(len(x),)}, got {tuple(weight.shape)}")
            wrong = ~(weight >= 0) | (weight == torch.inf)
            if wrong.any():
                row = int(wrong.nonzero()[0, 0])
                raise ValueError(f"{names[1]} must be finite and 0 or more, got {weight[row].item()} in row {row}")

    def checked(self, name: str, item: Any) -> Parts:
        """The parts of a batch; see ``check``."""
        parts = parts_of(name, item)
        if parts.x.ndim != 2:
            raise ValueError(
                f"{name} must give batches (B, D), got x of shape {tuple(parts.x.shape)}: put it into a DataLoader"
            )
        self.check(name, (f"context of {name}", f"weight of {name}"), parts)
        return parts


def parts_of(name: str, item: Any) -> Parts:
    """A batch: x, or (x, context, weight) of which the last may be left out, or a mapping with these names."""
    if isinstance(item, Mapping):
        if "x" not in item or not item.keys() <= set(_PARTS):
            raise ValueError(f"{name} must give mappings with x, and context and weight if there are, got {list(item)}")
        given = [item.get(part) for part in _PARTS]
    elif isinstance(item, (list, tuple)):
        if not 1 <= len(item) <= len(_PARTS):
            raise ValueError(
                f"{name} must give batches x or (x, context, weight), got a {type(item).__name__} of {len(item)}"
            )
        given = [*item, None, None][: len(_PARTS)]
    else:
        given = [item, None, None]
    if given[0] is None:
        raise ValueError(f"{name} must give batches x or (x, context, weight), got {shown(item)}")
    of = (f"x of {name}", f"context of {name}", f"weight of {name}")
    return Parts(*(None if each is None else tensor_of(part, each) for part, each in zip(of, given, strict=True)))  # type: ignore[arg-type]


def like_model(like: Tensor, rows: Tensor) -> Tensor:
    """Rows in the dtype of a model's weights, on their device; whole numbers stay what they are.

    Args:
        like: one of the weights; to find it takes longer than to convert a minibatch.
        rows: of any shape.

    Raises:
        ValueError: a whole number is too large to be exact.
    """
    if not rows.is_floating_point() and rows.dtype.itemsize > 1 and rows.numel():
        largest, limit = int(rows.abs().max()), round(2 / torch.finfo(like.dtype).eps)
        if largest > limit:
            raise ValueError(f"rows must be at most {limit} to be exact in {like.dtype}, got {largest}")
    return rows.to(device=like.device, dtype=like.dtype)
