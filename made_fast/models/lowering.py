"""A masked network as a program: its operations with copies of the weights, or the weights alone as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from made_fast.models.whole import Listing
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Op, Term

__all__ = ["Tensors", "Units"]


class Units(Listing):
    """Lists the operations of a program, whose weights are copied unless nobody writes to them any more."""

    def __init__(self, network: Any, layer_masks: Sequence[Tensor] | None, *, copy: bool) -> None:
        self.layers = network.masked_layers
        self.layer_masks: Sequence[Tensor | None] = [None] * len(self.layers) if layer_masks is None else layer_masks
        self.ops: list[Op] = []
        self.copy = copy

    def apply(self, function: str, value: int) -> int:
        """See ``_Engine``."""
        return self.listed(Elementwise(value, function))

    def add(self, left: int, right: int) -> int:
        """See ``_Engine``."""
        return self.listed(Add(left, right))

    def sum(self, parts: Sequence[tuple[int, int]], context: nn.Linear | None) -> int:
        """See ``Listing``."""
        terms = [self.layers[number].term(value, self.layer_masks[number], copy=self.copy) for number, value in parts]
        if context is not None:
            terms.append(Term(CONTEXT, context.weight.detach().clone(), None))
        number = parts[0][0]
        bias = self.layers[number].bias_under(self.layer_masks[number])
        return self.listed(Affine(tuple(terms), None if bias is None else bias.detach().clone()))


class Tensors(Listing):
    """Lists the weights of each operation, and its bias, as they are."""

    def __init__(self, network: Any, layer_masks: Sequence[Tensor] | None) -> None:
        self.layers = network.masked_layers
        self.layer_masks: Sequence[Tensor | None] = [None] * len(self.layers) if layer_masks is None else layer_masks
        self.found: list[Tensor | None] = []

    def apply(self, function: str, value: int) -> int:
        """See ``_Engine``."""
        return value

    def add(self, left: int, right: int) -> int:
        """See ``_Engine``."""
        return left

    def sum(self, parts: Sequence[tuple[int, int]], context: nn.Linear | None) -> int:
        """See ``Listing``."""
        self.found += [self.layers[number]._parameters["weight"] for number, _ in parts]
        if context is not None:
            self.found.append(context._parameters["weight"])
        number = parts[0][0]
        of = self.layers[number]._parameters  # a third of the time of attributes
        self.found.append(
            of["bias"] if of["mask_weight"] is None else self.layers[number].bias_under(self.layer_masks[number])
        )
        return 0
