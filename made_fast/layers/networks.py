"""Whole masked networks made ready for one native call: the operations of a wiring under its masks, without weights."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from made_fast import backends
from made_fast.layers.linear import masked_linear
from made_fast.masks import mask_digest, mask_key, whole_mask
from made_fast.programs.wiring import Wiring

__all__ = ["Call", "WholeNetwork", "backend_for"]

_KEPT = 64  # networks of one wiring: those of the masks of an ensemble

_chosen: dict[Any, backends.Backend | None] = {}


def backend_for(x: Tensor) -> backends.Backend | None:
    """The backend that runs whole networks on rows like these; None where none does."""
    wanted = os.environ.get("MADE_FAST_BACKEND", "auto")
    key = (x.device, x.dtype, wanted, backends.BACKENDS)
    if key not in _chosen:
        try:
            _chosen[key] = backends.choose(wanted, backends.Needs(x.device, x.dtype, networks=True))
        except ValueError:
            _chosen[key] = None
    return _chosen[key]


class WholeNetwork:
    """The network of one wiring under whatever masks it has at the moment.

    Args:
        wiring: its operations.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self._functions = sorted({wire.function for wire in wiring.wires} - {"identity"})
        self._ready: OrderedDict[Any, Any] = OrderedDict()
        self._last: _Last | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeNetwork:
        """What was made ready is made again."""
        return WholeNetwork(self.wiring)

    def __reduce__(self) -> tuple[Any, ...]:
        return WholeNetwork, (self.wiring,)

    def ready(self, backend: backends.Backend, masks: Mapping[int, Tensor]) -> Any:
        """What a backend made of the wiring under these masks; None where it cannot serve.

        Args:
            backend: see ``backend_for``.
            masks: of the weights that have one, by number: bool (out, in), or int64 (out + in,) degrees; or of the dtype
                of the weights, and then of 0 and 1 alone.
        """
        last = self._last
        if last is not None and last.backend is backend and last.knows(masks):
            return last.native
        key = (backend, *map(mask_key, masks.values()))
        if key not in self._ready:
            self._ready[key] = self._made(backend, masks)
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
        self._last = _Last(backend, masks, self._ready[key])
        return self._ready[key]

    def _made(self, backend: backends.Backend, masks: Mapping[int, Tensor]) -> Any:
        needs = backends.Needs(torch.device("cpu"), torch.float32, functions=self._functions, networks=True)
        if backends.why_not(backend, needs) is not None:
            return None
        numbers = [mask for mask in masks.values() if mask.is_floating_point()]
        if not all(bool(((mask == 0) | (mask == 1)).all()) for mask in numbers):
            return None
        masks = {weight: mask != 0 if mask.is_floating_point() else mask for weight, mask in masks.items()}
        widths = [self.wiring.features, self.wiring.context_features, *(wire.width for wire in self.wiring.wires)]
        whole = {
            weight: whole_mask(masks[weight], (wire.width, widths[value]))
            if weight in masks
            else torch.ones(wire.width, widths[value], dtype=torch.bool)
            for wire in self.wiring.wires
            for value, weight in wire.terms
        }
        return backends.load(backend).Network(self.wiring, whole)


class _Last:
    """The masks of the last call, which most calls have again: the same tensors with the same content."""

    def __init__(self, backend: backends.Backend, masks: Mapping[int, Tensor], native: Any) -> None:
        self.backend, self.native = backend, native
        whole = [mask if mask.is_contiguous() else None for mask in masks.values()]
        self._masks = [(mask, 0, 0) if mask is None else (mask, mask.data_ptr(), mask_digest(mask)) for mask in whole]

    def knows(self, masks: Mapping[int, Tensor]) -> bool:
        """Whether these are they. Whatever is written to a mask is seen, also where torch counts no version."""
        for mask, (known, address, digest) in zip(masks.values(), self._masks, strict=True):
            if mask is not known or mask.data_ptr() != address or not mask.is_contiguous():
                return False
            if mask_digest(mask) != digest:
                return False
        return True


class Call(NamedTuple):
    """One network of a chain, for one call.

    Attributes:
        wiring: its operations.
        native: what a backend made of it.
        weights: those of the wiring, by number.
        masks: see ``WholeNetwork.ready``.
        product: of values, a weight, its mask and a bias: the definition of a masked product.
        reads: which variable of the z before it is its i-th, int64 (D,); None: the i-th.
    """

    wiring: Wiring
    native: Any
    weights: Sequence[Tensor]
    masks: Mapping[int, Tensor]
    product: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = masked_linear
    reads: Tensor | None = None
