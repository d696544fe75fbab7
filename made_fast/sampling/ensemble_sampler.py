"""EnsembleSampler: draws from the mean of the distributions of all masks of a frozen model."""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from made_fast import backends
from made_fast.masks.mask_set import masks_of_rows
from made_fast.programs.schedule import Schedule
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.sampler import Sampler

if TYPE_CHECKING:
    from made_fast.models.made import MADE

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
        model: an ensemble that nobody changes any more.
        num_masks: the mean is over masks 0 .. n - 1.
        schedules: those of some of its masks, if they are known from the same masks with other weights.
    """

    def __init__(self, model: MADE, num_masks: int, schedules: dict[int, Schedule] | None = None) -> None:
        self.model = model
        self.num_masks = num_masks
        self.schedules = dict(schedules or {})
        self.features, self.context_features = model.features, model.context_features
        self.conditionals = model.conditionals
        weight = model.parameters_layer.weight
        self.dtype, self.device = weight.dtype, weight.device
        # Half precision would lose the sum over variables; the weights themselves are exact in fp32.
        half = self.dtype in (torch.bfloat16, torch.float16)
        self._exact = copy.deepcopy(model).float() if half else model
        self._samplers: dict[int, Sampler] = {}
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
        exact = replace(request, dtype=None) if with_log_prob else request
        x, log_weight = self._draw(exact)
        log_prob = self._log_prob(x, request) if with_log_prob else None
        return x if request.dtype is None else x.to(request.dtype), log_prob, log_weight

    def of_mask(self, mask: int) -> Sampler:
        """The sampler of one mask alone, packed at its first draw."""
        with self._lock:
            found = self._samplers.pop(mask, None)
            if found is None:
                known = self.schedules.get(mask)
                found = Sampler(self.model.program(mask=mask), self.model.output, schedule=known)
                self.schedules[mask] = found.schedule
            self._samplers[mask] = found
            cost = 2 * found.macs * self.dtype.itemsize  # every weight is packed in two layouts
            for old in list(self._samplers)[: -max(1, _PACKED_BYTES // max(1, cost))]:
                del self._samplers[old]
        return found

    def _draw(self, request: Request) -> tuple[Tensor, Tensor | None]:
        own = torch.float32 if self._exact is not self.model else self.dtype
        outputs = {each.name for each in self.conditionals}
        backends.choose(request.backend, device=self.device, dtype=own, outputs=outputs, own=backends.OWN_DRAWS)
        x = torch.empty((request.count, self.features), dtype=request.dtype or self.dtype, device=self.device)
        log_weight = None if request.conditions is None else x.new_empty(request.count, dtype=own)
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
        weight = self._exact.parameters_layer.weight
        found = torch.empty(len(x), dtype=weight.dtype, device=self.device)
        widest = max(self.features, *(layer.out_features for layer in self._exact.masked_layers))
        size = math.ceil(_VALUES_AT_ONCE / widest)
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(x), size):
                places = torch.arange(start, min(start + size, len(x)))
                context = request.context_of(places)
                context = None if context is None else context.to(weight)
                piece = x[start : start + size].to(weight.dtype)
                found[start : start + size] = self._exact.log_prob(piece, context, masks=range(self.num_masks))
        return found
