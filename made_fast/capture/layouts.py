"""Which parameter belongs to which variable, and in which order variables can be drawn: found from dependencies."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.capture.export import CaptureError
from made_fast.programs.dependencies import closure_of

__all__ = ["LAYOUTS", "Arrangement", "arrange", "order_of"]

LAYOUTS = ("variable-major", "parameter-major")

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Arrangement:
    """How the results of a module become flat, variable-major parameters.

    Attributes:
        layout: one of ``LAYOUTS``.
        index: int64 (P,), parameter i is element ``index[i]`` of the results, flattened and joined.
        params_per_variable: K_d for each variable.
        order: int64 (D,), in which variables can be drawn; lower numbers first where there is a choice.
    """

    layout: str
    index: Tensor
    params_per_variable: tuple[int, ...]
    order: Tensor


def arrange(
    shapes: Sequence[tuple[int, ...]],
    reads: BoolArray,
    features: int,
    *,
    layout: str | None = None,
    params_per_variable: Sequence[int] | None = None,
) -> Arrangement:
    """Finds the layout under which the results are autoregressive.

    Args:
        shapes: of the results, for one row, without the batch.
        reads: (P, D), which variables each element depends on.
        features: D.
        layout: the only one to be considered, if given.
        params_per_variable: K_d for each variable, if they differ or are known.

    Raises:
        CaptureError: there is none, or more than one.
    """
    if layout is not None and layout not in LAYOUTS:
        raise CaptureError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    count = len(reads)
    if params_per_variable is not None and sum(params_per_variable) != count:
        raise CaptureError(
            f"module must give {sum(params_per_variable)} parameters for this output, but it gives {count}"
        )
    ragged = params_per_variable is not None and len(set(params_per_variable)) > 1
    if not ragged and count % features:
        raise CaptureError(
            f"module must give a multiple of {features} parameters, got {count}: check features, or give an output whose "
            "variables have different numbers of them"
        )
    sizes = tuple(params_per_variable) if params_per_variable is not None else (count // features,) * features
    names = (layout,) if layout else LAYOUTS
    candidates = {} if ragged else {name: _index(shapes, features, name) for name in names}
    if ragged:
        if layout == "parameter-major":
            raise CaptureError("layout must be variable-major where variables have different numbers of parameters")
        candidates = {"variable-major": torch.arange(count)}
    owner = np.repeat(np.arange(features), sizes)
    seen_by_layout, orders = {}, {}
    for name, index in candidates.items():
        seen = np.zeros((features, features), dtype=np.bool_)
        np.logical_or.at(seen, owner, reads[index.numpy()])
        seen_by_layout[name] = seen
        order = order_of(seen)
        if order is not None:
            orders[name] = torch.from_numpy(order)
    if not orders:
        best = min(seen_by_layout, key=lambda name: int((seen_by_layout[name] & seen_by_layout[name].T).sum()))
        raise CaptureError(_ring(seen_by_layout[best]) + ("" if len(seen_by_layout) == 1 else f" (read as {best})"))
    chosen = next(iter(orders))
    if len(orders) > 1 and not torch.equal(*candidates.values()):
        raise CaptureError(
            "layout must be given: the parameters are autoregressive both as variable-major (all of variable 0, then all of "
            "variable 1, ...) and as parameter-major (the first of each variable, then the second, ...)"
        )
    return Arrangement(chosen, candidates[chosen], sizes, orders[chosen])


def _index(shapes: Sequence[tuple[int, ...]], features: int, layout: str) -> Tensor:
    """int64 (P,): the elements in variable-major order, if the results have this layout."""
    start, parts = 0, []
    for shape in shapes:
        count = int(np.prod(shape, dtype=np.int64))
        if count % features:
            raise CaptureError(
                f"each result of module must have a multiple of {features} elements for a row, got shape (B, "
                f"{', '.join(map(str, shape))})"
            )
        elements = start + torch.arange(count)
        leading, trailing = bool(shape) and shape[0] == features, bool(shape) and shape[-1] == features
        variable_major = layout == LAYOUTS[0] if leading == trailing else leading
        parts.append(elements.reshape(features, -1) if variable_major else elements.reshape(-1, features).T)
        start += count
    return torch.cat(parts, dim=1).flatten()


def order_of(seen: BoolArray) -> NDArray[np.int64] | None:
    """An order in which each variable comes after all that it depends on, least numbers first; None if there is none.

    Args:
        seen: (D, D), row depends on column.
    """
    missing = seen.sum(1)
    ready = [int(each) for each in np.flatnonzero(missing == 0)]
    order = []
    while ready:
        variable = heapq.heappop(ready)
        order.append(variable)
        readers = np.flatnonzero(seen[:, variable])
        missing[readers] -= 1
        for reader in readers[missing[readers] == 0]:
            heapq.heappush(ready, int(reader))
    return np.asarray(order, dtype=np.int64) if len(order) == len(seen) else None


def _ring(seen: BoolArray) -> str:
    """Names variables that depend on one another, or one that depends on itself."""
    start = "module must be autoregressive, but "
    end = ": parameters of a variable may only depend on variables drawn before it; check the masks"
    on_themselves = np.flatnonzero(seen.diagonal())
    if len(on_themselves):
        more = f" (so do {len(on_themselves) - 1} others)" if len(on_themselves) > 1 else ""
        return f"{start}the parameters of variable {on_themselves[0]} depend on variable {on_themselves[0]} itself{more}{end}"
    closure = closure_of(seen)
    mutual = closure & closure.T
    direct = mutual & seen
    both = direct & direct.T
    first, second = np.argwhere(both if both.any() else direct)[0]
    way = "" if seen[second, first] else ", by way of others,"
    return f"{start}variable {first} depends on variable {second} and variable {second}{way} on variable {first}{end}"
