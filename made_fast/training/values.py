"""Values of rows that no model learns from: those that are not finite, and columns far from 0 and 1."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from made_fast.arguments import is_finite
from made_fast.training.layout import Parts, like_model
from made_fast.training.rows import TensorRows

__all__ = ["refuse_strange", "refuse_strange_rows", "warn_of_scales"]

_REAL = ("normal", "mixture_of_normals")  # conditionals that start with a location near 0 and a scale near 1
# Deviations, and means in both directions. After a thousand steps, with 2.9 nats at deviation 1: deviations of 5 and 10 cost
# a normal output 0.3 and 3 nats and a flow 0.1 and 54, a mean of 10 costs 13 and 12; one of 0.01, after 1600, 0.8 and 0.4.
_LARGEST, _SMALLEST = 10.0, 0.01
_MOST_ROWS, _MOST_COLUMNS = 10_000, 8  # that are looked at, that are named


def refuse_strange(name: str, parts: Parts, where: str = "row", first: int = 0) -> None:
    """Raises ValueError where a number of some rows or contexts is nan or infinite, and says in which row.

    Args:
        name: of the argument that they are.
        parts: the rows.
        where: what the message says before the number of the row.
        first: the number of the first row.
    """
    for of, each in ((name, parts.x), (f"context of {name}", parts.context)):
        if each is not None and each.is_floating_point() and not is_finite(each):
            row, column = (~torch.isfinite(each)).nonzero()[0].tolist()
            found = each[row, column].item()
            raise ValueError(f"{of} must be finite, got {found} in {where} {first + row}, column {column}")


@torch.no_grad()
def refuse_strange_rows(model: nn.Module, rows: TensorRows) -> None:
    """Raises ValueError where a number is nan or infinite, unless the model has a probability for such a row."""
    number = rows.strange()
    if number is None:
        return
    strange, was_training = rows.take(range(number, number + 1)), model.training
    like = next(model.parameters())
    given = [like_model(like, each) for each in strange[:2] if each is not None]
    model.eval()
    try:
        taken = bool(torch.isfinite(cast(Any, model).log_prob(*given)).all())
    except (ValueError, FloatingPointError):
        taken = False
    finally:
        model.train(was_training)
    if not taken:
        refuse_strange(rows.name, strange, first=number)


def _conditionals_of(model: nn.Module) -> tuple[Any, ...]:
    """Those of the variables as the model reads them; of a flow, those of the transform that reads them."""
    networks: Any = getattr(model, "networks", None)
    first = networks[0] if isinstance(networks, nn.ModuleList) and len(networks) else model
    found = getattr(first, "conditionals", ())
    return found if isinstance(found, tuple) else ()


def warn_of_scales(model: nn.Module, name: str, x: Tensor, stacklevel: int) -> None:
    """Warns of columns of real numbers that are far from 0 and 1, where training begins.

    Args:
        model: what its outputs are says which columns are real; none is known of others than ours.
        name: of the argument.
        x: rows (N, D).
        stacklevel: of ``warnings.warn``, seen from here.

    Warns:
        UserWarning: the mean is beyond 10, or the deviation beyond 10 or below 0.01.
    """
    real = [n for n, each in enumerate(_conditionals_of(model)) if getattr(each, "name", "") in _REAL]
    if not real or len(x) < 2 or x.shape[1] <= real[-1]:
        return
    values = x[:: -(-len(x) // _MOST_ROWS), real].detach().double()
    means, deviations = values.mean(0), values.std(0)
    far = (means.abs() > _LARGEST) | (deviations > _LARGEST) | (deviations < _SMALLEST)
    if not far.any():
        return
    places = far.nonzero()[:, 0].tolist()
    told = [f"{real[p]} (mean {means[p]:.3g}, deviation {deviations[p]:.3g})" for p in places[:_MOST_COLUMNS]]
    more = f" and {len(places) - len(told)} more" if len(places) > len(told) else ""
    warnings.warn(
        f"columns of {name} are far from mean 0 and deviation 1, where training begins, and may never be fitted: column "
        f"{', '.join(told)}{more}; standardise them, (x - mean) / deviation, or use made_fast.tables, which does",
        UserWarning,
        stacklevel=stacklevel + 1,
    )
