"""EnsembleSampler: draws from the mean of the distributions of several programs, one for each mask."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from made_fast import backends
from made_fast.arguments import whole_number
from made_fast.masks import masks_of_rows
from made_fast.outputs.dtypes import check_dtype, write_values
from made_fast.outputs.output import Output
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.room import empty_rows
from made_fast.sampling.sampler import Sampler, needs_of

__all__ = ["EnsembleSampler"]

_PACKED_BYTES = 2 << 30  # of packed weights that are kept, all masks together
_VALUES_AT_ONCE = 1 << 24  # of hidden units, where log-probabilities are computed


class EnsembleSampler(Draws):
    r"""Draws exact samples of an ensemble, :math:`p(x) = \frac1n \sum_k p_k(x)`.

    Each noise row takes one of the masks, by a uniform of its own, and is then drawn from that mask's distribution. So a
    sample depends on the seed and the row number alone, as with a ``Sampler``. The weights are copied: training the model
    later changes nothing. What a mask needs is packed when a row first takes it.

    Attributes:
        features: number of variables D.
        num_masks: n, over which the ensemble is a mean.
        dtype: of the samples.

    Args:
        programs: the program of a mask, by its number; of weights that nobody changes any more.
        log_prob: of the mean, (B,) in nats from x (B, D) and context (B, C) or None, in fp32 where the programs have half
            precision, whose sum over variables would lose too much.
        output: what the parameters mean.
        num_masks: the mean is over masks 0 .. n - 1.
        widest: the largest number of values that ``log_prob`` holds for one row.
        schedules: those of some of its masks, if they are known from the same masks with other weights; those that are found
            are added.
    """

    def __init__(
        self,
        programs: Callable[[int], Program],
        log_prob: Callable[[Tensor, Tensor | None], Tensor],
        output: Output,
        num_masks: int,
        *,
        widest: int,
        schedules: dict[int, Schedule] | None = None,
    ) -> None:
        self.output, self.num_masks, self.widest = output, num_masks, widest
        self.schedules = {} if schedules is None else schedules
        self._programs, self._log_prob_of = programs, log_prob
        first = programs(0)
        self.features, self.context_features, self.conditionals = (
            first.features,
            first.context_features,
            first.conditionals,
        )
        self.dtype, self.device = first.dtype, first.device
        self._exact_dtype = torch.float32 if self.dtype in (torch.bfloat16, torch.float16) else self.dtype
        self._samplers: dict[int, Sampler] = {}
        self._looks: dict[torch.dtype, bool] = {}  # see Sampler
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves what was made of single masks out of copies and pickles; it is made again when needed."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_samplers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._samplers, self._lock = {}, threading.Lock()

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # Log-probabilities take a forward pass for each mask, and, unlike the samples, their last digits depend on how many
        # rows are drawn.
        result = request.dtype or self.dtype
        if result not in self._looks:
            self._looks[result] = check_dtype(self.conditionals, result)
        if not with_log_prob:
            x, log_weight = self._draw(replace(request, dtype=result))
            return x, None, log_weight
        exact, log_weight = self._draw(replace(request, dtype=self._exact_dtype))
        log_prob = self._log_prob(exact, request)
        x = exact if result == exact.dtype else torch.empty_like(exact, dtype=result)
        if x is not exact:
            write_values(x, exact, self._looks[result])
        return x, log_prob, log_weight

    def _of_mask(self, mask: int) -> Sampler:
        return self.of_mask(whole_number("mask", mask, 0, self.num_masks - 1))

    def of_mask(self, mask: int) -> Sampler:
        """The sampler of one mask alone, packed at its first draw."""
        with self._lock:
            sampler = self._samplers.pop(mask, None)
            if sampler is None:
                known = self.schedules.get(mask)
                sampler = Sampler(self._programs(mask), self.output, schedule=known)
                self.schedules[mask] = sampler.schedule
            self._samplers[mask] = sampler
            cost = 2 * sampler.macs * self.dtype.itemsize  # every weight is packed twice
            for old in list(self._samplers)[: -max(1, _PACKED_BYTES // max(1, cost))]:
                del self._samplers[old]
        return sampler

    def _draw(self, request: Request) -> tuple[Tensor, Tensor | None]:
        needs = needs_of(self.conditionals, device=self.device, dtype=self._exact_dtype)
        backends.choose(request.backend, needs)  # or says why not, also where no row is drawn
        x = empty_rows(request.count, self.features, request.dtype or self.dtype, self.device)
        log_weight = None if request.conditions is None else x.new_empty(request.count, dtype=self._exact_dtype)
        noise_rows = request.noise_rows()
        masks = masks_of_rows(request.seed, noise_rows, self.num_masks)
        groups = masks.argsort(stable=True).split(masks.bincount(minlength=self.num_masks).tolist())
        with tqdm(total=request.count, unit="row", unit_scale=True, disable=not request.progress) as bar:
            for mask, places in enumerate(groups):
                if not len(places):
                    continue
                context, conditions = request.context_of(places), request.conditions_of(places)
                single = context is not None or conditions is not None  # one sample for each of them
                part = replace(
                    request,
                    shape=(len(places), 1) if single else (len(places),),
                    first_row=0,
                    rows=noise_rows[places],
                    context=context,
                    conditions=conditions,
                    dtype=x.dtype,
                    progress=False,
                )
                drawn, _, weights = self.of_mask(mask)._drawn(part, False)
                x[places.to(self.device)] = drawn
                if log_weight is not None and weights is not None:
                    log_weight[places.to(self.device)] = weights
                bar.update(len(places))
        return x, log_weight

    @torch.no_grad()
    def _log_prob(self, x: Tensor, request: Request) -> Tensor:
        dtype = self._exact_dtype
        log_prob = torch.empty(len(x), dtype=dtype, device=self.device)
        size = math.ceil(_VALUES_AT_ONCE / self.widest)
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(x), size):
                places = torch.arange(start, min(start + size, len(x)))
                context = request.context_of(places)
                context = None if context is None else context.to(self.device, dtype)
                log_prob[start : start + size] = self._log_prob_of(x[start : start + size].to(dtype), context)
        return log_prob
