"""The sampler that a model keeps: how it is made, and how it gets other weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from made_fast.layers.unchanged import Seen, Unchanged, unchanged
from made_fast.models.lowering import Places
from made_fast.models.settled import is_plain, settled
from made_fast.programs.program import Program
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.sampling.kept import Kept
from made_fast.sampling.sampler import Sampler

__all__ = ["kept_sampler", "watch_of"]

AnySampler = Sampler | EnsembleSampler


def kept_sampler(model: Any) -> Kept[AnySampler]:
    """The sampler of a ``MADE``, made from what its ``_state`` gives."""
    return Kept(
        model._state, partial(_made, model), renew=partial(_renewed, model, Places()), watch=partial(watch_of, model)
    )


def watch_of(model: Any, seen: Seen | None = None) -> Unchanged | None:
    """Watches what ``_state`` of a ``MADE`` reads, where layers are plain ones, and what was seen besides."""
    if not is_plain(model.layers):
        return None
    seen = Seen() if seen is None else seen
    model.whole.show(model, seen)
    seen.attributes(model, "output")
    return unchanged(seen.but_contents())


def _made(model: Any, last: AnySampler | None) -> AnySampler:
    """The sampler of a model as it is; schedules follow from the structure alone, so they are taken from the last."""
    if model.ensemble is None:
        schedule = last.schedule if isinstance(last, Sampler) else None
        return Sampler(model.program(), model.output, schedule=schedule)
    count = len(model.ensemble.evaluated)
    frozen = settled(model, own=True)
    half = model.parameters_layer.weight.dtype in (torch.bfloat16, torch.float16)  # exact in fp32
    exact = settled(model, own=True).float() if half else frozen
    return EnsembleSampler(
        partial(_program_of, frozen),
        partial(exact.log_prob, masks=range(count)),
        model.output,
        count,
        widest=max(model.features, *(layer.out_features for layer in model.masked_layers)),
        schedules=last.schedules if isinstance(last, EnsembleSampler) else None,
    )


def _program_of(frozen: Any, mask: int) -> Program:
    """The program of a mask of a model to which nobody writes any more."""
    program: Program = frozen.program_of(frozen._layer_masks(mask), frozen.order_of(mask), copy=False)
    return program


def _renewed(model: Any, places: Places, last: AnySampler, tensors: Sequence[Tensor]) -> Sampler | None:
    """The last sampler with the weights among these tensors, which are those of ``_state``; of one mask."""
    if not isinstance(last, Sampler) or last.conditionals is not model.conditionals:
        return None
    weights, same = places.find(model, tensors)
    return last.with_weights(weights, alike=same)
