"""What tests need: the naive sampler, and comparisons that know when two exact samplers may differ."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from made_fast import masks, noise
from made_fast.backends import reference
from made_fast.ensemble import masks_of_rows
from made_fast.nn import MADE

__all__ = ["naive_sample", "unexplained_differences"]


def _by_mask(module: MADE, rows: Tensor, seed: int, mask: int | None) -> Iterator[tuple[int, Tensor]]:
    """Each mask that draws some of the noise rows (B,), and which rows they are."""
    if mask is not None or module.ensemble is None:
        yield mask or 0, torch.arange(len(rows), device=rows.device)
        return
    of_rows = masks_of_rows(seed, rows, len(module.ensemble.evaluated))
    for each in of_rows.unique().tolist():
        yield each, (of_rows == each).nonzero()[:, 0]


def naive_sample(
    module: MADE,
    num_samples: int,
    *,
    seed: int,
    first_row: int = 0,
    context: Tensor | None = None,
    mask: int | None = None,
) -> Tensor:
    """Draws by the definition: D passes of the whole network, one variable after each.

    Args:
        module: the model.
        num_samples: n; for each context if there is one.
        seed: of the noise.
        first_row: number of the first noise row.
        context: (B, C) or None.
        mask: index of the mask to draw from; the whole ensemble if None.

    Returns:
        (n, D), or (B, n, D) with a context; what every other sampler is compared with, draw for draw.
    """
    parameter = next(module.parameters())
    contexts = 1 if context is None else context.shape[0]
    rows = torch.arange(first_row, first_row + contexts * num_samples, device=parameter.device)
    repeated = None if context is None else context.to(parameter.dtype).repeat_interleave(num_samples, 0)
    x = torch.empty(len(rows), module.features, dtype=parameter.dtype, device=parameter.device)
    for each, places in _by_mask(module, rows, seed, mask):
        given = None if repeated is None else repeated[places]
        with torch.no_grad():
            x[places] = reference.naive_draw(
                lambda x, each=each, given=given: module(x, given, mask=each),  # type: ignore[misc]
                module.order_of(each),
                module.conditionals,
                rows[places],
                seed=seed,
                dtype=parameter.dtype,
            )[0]
    return x if context is None else x.reshape(contexts, num_samples, -1)


def unexplained_differences(
    module: MADE,
    x: Tensor,
    *,
    seed: int,
    first_row: int = 0,
    context: Tensor | None = None,
    tolerance: float = 1e-5,
    mask: int | None = None,
) -> Tensor:
    """Returns which binary draws contradict the model: (n, D) bool, all False for an exact sampler.

    Every draw is checked against the model's own conditionals *given the row's own prefix*, so that one draw that differs
    from another sampler's for a good reason (its uniform lies within ``tolerance`` of the threshold) hides nothing that
    comes after it, and needs no row to be skipped.

    Args:
        module: a model with output ``"bernoulli"``.
        x: (n, D) samples drawn with this seed and first row.
        seed, first_row: of the noise.
        context: (n, C), row by row, or None.
        tolerance: how near to its threshold a uniform excuses the draw.
        mask: index of the mask that drew them; the whole ensemble if None.
    """
    rows = torch.arange(first_row, first_row + x.shape[0], device=x.device)
    found = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    for each, places in _by_mask(module, rows, seed, mask):
        given = None if context is None else context[places]
        with torch.no_grad():
            probability = torch.sigmoid(module(x[places], given, mask=each))  # (m, D)
        uniforms = noise.uniform(seed, rows[places][:, None], masks.rank_of(module.order_of(each)))
        differs = x[places] != (uniforms < probability)
        found[places] = differs & ((uniforms - probability).abs() > tolerance)
    return found
