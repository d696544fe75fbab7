"""What tests need: the naive sampler, and comparisons that know when two exact samplers may differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, product
from typing import Any

import torch
from torch import Tensor

from made_fast.backends import reference
from made_fast.masks import masks_of_rows, rank_of
from made_fast.models.made import MADE
from made_fast.outputs.conditional import Conditional
from made_fast.programs.schedule import build_schedule
from made_fast.requests.request import Request
from made_fast.requests.sums import RunningSums
from made_fast.sampling.draws import WeightedSamples

__all__ = ["naive_sample", "unexplained_differences"]


def _by_mask(module: MADE, rows: Tensor, seed: int, mask: int | None) -> Iterator[tuple[int, Tensor]]:
    """Each mask that draws some of the noise rows (B,), and which rows they are."""
    if mask is not None or module.ensemble is None:
        yield mask or 0, torch.arange(len(rows), device=rows.device)
        return
    of_rows = masks_of_rows(seed, rows, len(module.ensemble.evaluated))
    for number in of_rows.unique().tolist():
        yield number, (of_rows == number).nonzero()[:, 0]


def _sequence(module: MADE, mask: int) -> list[int]:
    """The variables in the sequence in which samplers draw them."""
    sequence: list[int] = build_schedule(module.program(mask=mask)).variables.tolist()
    return sequence


def naive_sample(
    module: MADE,
    num_samples: int,
    context: Tensor | None = None,
    *,
    seed: int,
    mask: int | None = None,
    **options: Any,
) -> Any:
    """Draws by the definition: D passes of the whole network, one variable after each.

    Args:
        module: the model.
        num_samples: n; for each row of contexts or conditions if there are such.
        context: (N, C) or None.
        seed: of the noise.
        mask: index of the mask to draw from; the whole ensemble if None.
        options: others of ``Sampler.sample``: ``first_row``, ``given``, ``observed``, ``allowed``, ``temperature``, ...

    Returns:
        (n, D), or (N, n, D); with conditions ``WeightedSamples``: what every other sampler is compared with, draw for draw.

    Examples:
        >>> model = MADE(5, (8,))
        >>> torch.equal(model.sample(20, seed=0), naive_sample(model, 20, seed=0))
        True
    """
    parameter = next(module.parameters())
    request = Request.checked(module.conditionals, module.context_features, num_samples, context, seed=seed, **options)
    rows = request.noise_rows().to(parameter.device)
    x = torch.empty(len(rows), module.features, dtype=parameter.dtype, device=parameter.device)
    log_weight = x.new_empty(len(rows))
    conditions = None if request.conditions is None else request.conditions.moved(x.device, x.dtype)
    for number, places in _by_mask(module, rows, seed, mask):
        contexts = request.context_of(places)
        contexts = None if contexts is None else contexts.to(x)
        with torch.no_grad():
            x[places], log_weight[places] = reference.naive_draw(
                lambda x, number=number, contexts=contexts: module(x, contexts, mask=number),  # type: ignore[misc]
                module.order_of(number),
                module.conditionals,
                rows[places],
                seed=seed,
                dtype=parameter.dtype,
                conditions=conditions,
                condition=places // request.shape[-1] if len(request.shape) > 1 else None,
                decoding=request.decoding,
                sequence=_sequence(module, number) if conditions is not None and conditions.sums is not None else None,
            )
    x = x.reshape(*request.shape, module.features)
    return x if conditions is None else WeightedSamples(x, log_weight.reshape(request.shape))


def unexplained_differences(
    module: MADE,
    x: Tensor,
    context: Tensor | None = None,
    *,
    seed: int,
    tolerance: float = 1e-5,
    mask: int | None = None,
    **options: Any,
) -> Tensor:
    """Returns which draws contradict the model: (n, D) bool, all False for an exact sampler.

    Every draw is checked against the model's own conditionals *given the row's own prefix*, so that one draw that differs
    from another sampler's for a good reason (its uniform lies within ``tolerance`` of a threshold) hides nothing that comes
    after it, and needs no row to be skipped. Real numbers may differ by ``tolerance``, relative above 1.

    Args:
        module: a model.
        x: (n, D) samples drawn with this seed; with contexts or conditions of N rows (N, n, D), or (N, D) of one for each.
        context: (N, C) or None.
        seed: of the noise.
        tolerance: how near to its threshold a uniform excuses a draw.
        mask: index of the mask that drew them; the whole ensemble if None.
        options: as for ``naive_sample``.
    """
    shape, x = x.shape, x[:, None] if x.ndim == 2 and context is not None else x
    request = Request.checked(module.conditionals, module.context_features, x.shape[-2], context, seed=seed, **options)
    rows, flat = request.noise_rows().to(x.device), x.reshape(-1, module.features)
    conditions = None if request.conditions is None else request.conditions.moved(x.device, x.dtype)
    condition = torch.arange(len(rows), device=x.device) // x.shape[-2] if len(request.shape) > 1 else rows * 0
    contradicts = torch.zeros(flat.shape, dtype=torch.bool, device=x.device)
    for number, places in _by_mask(module, rows, seed, mask):
        contexts = request.context_of(places)
        with torch.no_grad():
            params = module(flat[places], None if contexts is None else contexts.to(flat), mask=number)
        rank, running, sequence = rank_of(module.order_of(number)).tolist(), None, [*range(module.features)]
        if conditions is not None and conditions.sums is not None:
            sequence = _sequence(module, number)
            running = RunningSums(conditions.sums.drawn_in(sequence), condition[places])
        starts = list(accumulate(module.params_per_variable, initial=0))
        for variable in sequence:
            conditional = module.conditionals[variable]
            uniforms = reference.uniforms_of(conditional, seed, rows[places], rank[variable])
            drawn = [
                reference.draw_variable(
                    module.conditionals,
                    variable,
                    params[:, starts[variable] : starts[variable + 1]],
                    shifted,
                    request.decoding,
                    conditions,
                    condition[places],
                    running,
                )[0]
                for shifted in _shifted(conditional, uniforms, tolerance)
            ]
            value, candidates = flat[places, variable], torch.stack(drawn)
            if running is not None:
                running.take(variable, value)
            slack = tolerance * value.abs().clamp(min=1) if not conditional.size else 0
            low, high = candidates.amin(0) - slack, candidates.amax(0) + slack
            contradicts[places, variable] = ~((value >= low) & (value <= high))
    return contradicts.reshape(shape)


def _shifted(conditional: Conditional, uniforms: Tensor, tolerance: float) -> Iterator[Tensor]:
    """Uniforms (n, num_draws), moved by the tolerance where they decide between values rather than give one."""
    decides = 2 if conditional.size else uniforms.shape[1] - 1
    for signs in product((0.0, -1.0, 1.0), repeat=min(decides, uniforms.shape[1])):
        shift = torch.tensor([*signs, *[0.0] * (uniforms.shape[1] - len(signs))], device=uniforms.device)
        yield (uniforms + tolerance * shift).clamp(0, 1 - 2.0**-24)
