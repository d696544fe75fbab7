"""A masked network as a program: its operations with copies of the weights, or the weights alone as they are."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from made_fast.models.whole import Listing
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Op, Term

__all__ = ["Places", "Tensors", "Units"]


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


class Places:
    """Where the weights of a program are among all tensors of a network, once they were found."""

    def __init__(self) -> None:
        self._known: Sequence[Tensor] = ()
        self._places: list[int | None] = []

    def find(self, network: Any, tensors: Sequence[Tensor]) -> tuple[list[Tensor | None], bool]:
        """The weights of a network of one mask, as ``MaskedNetwork.tensors_of`` lists them; and whether it has the same ones
        as at the last time, in the same places.

        Args:
            network: whose weights they are.
            tensors: of it, among which the weights are.
        """
        if len(tensors) == len(self._known) and all(map(operator.is_, tensors, self._known)):
            return [None if place is None else tensors[place] for place in self._places], True
        plain = network._settled()
        listed: list[Tensor | None] = plain.tensors_of(None)
        numbers = {id(tensor): number for number, tensor in enumerate(tensors)}
        if plain is network and all(each is None or id(each) in numbers for each in listed):  # else made anew each time
            self._known, self._places = tensors, [None if each is None else numbers[id(each)] for each in listed]
        return listed, False

    def __getstate__(self) -> dict[str, Any]:
        """Copies have other tensors."""
        return {"_known": (), "_places": []}
