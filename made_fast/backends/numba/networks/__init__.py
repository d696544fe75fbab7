"""Whole networks in one compiled call: forward, and backward from what the forward kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.backends.known import ReadyNetwork, ReadyNetworks, check_function, new_results
from made_fast.backends.numba.jit import in_threads
from made_fast.backends.numba.networks.backward import (
    BLOCKS_AT_ONCE,
    backward,
    backward_blocks,
    backward_weights,
    gradients_are_finite,
)
from made_fast.backends.numba.networks.forward import forward
from made_fast.backends.numba.networks.plan import (
    BLOCK,
    SEGMENT,
    UNITS,
    Side,
    Status,
    TaskColumn,
    plan_of,
    side_of,
)
from made_fast.backends.numba.networks.slopes import SLOPES
from made_fast.programs.wiring import HEADS, Wiring, check_head, check_networks, check_wiring

__all__ = ["Network", "Networks"]

_MACS_PER_THREAD = 4_000_000  # of a forward pass
_NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}


class Network(ReadyNetwork):
    """A network made ready: its operations and masks, but no weights.

    Args:
        wiring: the operations.
        masks: by the number of its weight, the mask of each, bool (out, in).

    Attributes:
        wiring: the operations.
        sides: by the number of its weight, each mask and its transpose.
        macs: multiply-adds of a forward pass of one row.
    """

    def __init__(self, wiring: Wiring, masks: Mapping[int, Tensor]) -> None:
        check_wiring(wiring, masks)
        for wire in wiring.wires:
            check_function("numba", wire.function, SLOPES)
        self.wiring = wiring
        self.sides: dict[int, tuple[Side, Side]] = {
            number: (side_of(mask.numpy()), side_of(mask.numpy().T)) for number, mask in masks.items()
        }
        self.macs = sum(UNITS * len(side.columns) for side, _ in self.sides.values())
        super().__init__(object())

    def _chained(self, networks: Sequence[Network]) -> Networks:
        return Networks(networks)


class Networks(ReadyNetworks):
    """Networks one after another, each reading the z of the one before.

    Args:
        networks: of the same D and C, 64 at most.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._wirings = [each.wiring for each in networks]
        check_networks(self._wirings)
        self._plan = plan_of([(each.wiring, each.sides) for each in networks])
        self._units, self._room = (
            self._plan.number(each) for each in (TaskColumn.UNITS_KEPT, TaskColumn.UNITS_OF_ROOM)
        )
        self._num_weights = sum(each.num_weights for each in self._wirings)
        self._macs = sum(each.macs for each in networks)
        self._pieces = [_pieces(each) for each in self._wirings]
        self._checked: set[str] = set()  # heads

    def forward(
        self,
        head: str,
        floor: float,
        reads: Sequence[Tensor | None],
        x: Tensor,
        context: Tensor | None,
        weights: Sequence[int],
        keep: bool,
        finite: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor] | None:
        """See ``ReadyNetworks``."""
        self._check(head, reads, weights)
        batch = x.shape[0]
        blocks, threads = self._cut(batch)
        values = x.new_empty(blocks * BLOCK * self._units if keep else 0)
        out, total = new_results(head, self._wirings[-1], x)
        tensors = (x, context, out, total, values if keep else None, None)
        task = self._task(tensors, head, batch, finite, reads, weights)
        statuses = in_threads(forward, (task, _NUMBERS[x.dtype](floor)), blocks, threads)
        if Status.NO_PERMUTATION in statuses:
            raise ValueError("what a network reads must be a permutation")
        return None if Status.NOT_FINITE in statuses else (out, total, values)

    def backward(
        self,
        head: str,
        floor: float,
        reads: Sequence[Tensor | None],
        batch: int,
        weights: Sequence[int],
        values: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        into: tuple[Tensor | None, Tensor | None],
        into_weights: Sequence[Tensor | None],
        finite: bool = False,
    ) -> bool:
        """See ``ReadyNetworks``."""
        self._check(head, reads, weights)
        blocks, threads = self._cut(batch)
        room = values.new_empty(min(blocks, BLOCKS_AT_ONCE) * BLOCK * self._room)
        of_weights = [0 if each is None else each.data_ptr() for each in into_weights]
        task = self._task((*into, *grads, values, room), head, batch, finite, reads, weights, of_weights)
        given = (task, _NUMBERS[values.dtype](floor))
        if threads == 1:
            return backward(*given) == Status.DONE  # type: ignore[no-any-return]
        if finite and not gradients_are_finite(*given, False):
            return False
        for first in range(0, blocks, BLOCKS_AT_ONCE):
            count = min(BLOCKS_AT_ONCE, blocks - first)
            for network in range(len(self._wirings) - 1, -1, -1):
                in_threads(backward_blocks, (*given, first, network), count, threads)
                in_threads(backward_weights, (*given, first, count, network), self._pieces[network], threads)
        return not finite or bool(gradients_are_finite(*given, True))

    def _task(
        self,
        tensors: Sequence[Tensor | None],
        head: str,
        batch: int,
        finite: bool,
        reads: Sequence[Tensor | None],
        *weights: Sequence[int],
    ) -> NDArray[np.int64]:
        """See ``plan.TaskColumn``, whose first six columns are of ``tensors``."""
        numbers = [0 if each is None else each.data_ptr() for each in tensors]
        numbers += [HEADS.index(head), batch, finite, *self._plan.numbers]
        numbers += [0 if each is None else each.data_ptr() for each in reads]
        for each in weights:
            numbers += each
        return np.array(numbers, dtype=np.int64)

    def _check(self, head: str, reads: Sequence[Tensor | None], weights: Sequence[int]) -> None:
        if head not in self._checked:
            check_head(self._wirings, head)
            self._checked.add(head)
        if len(reads) != len(self._wirings) or reads[0] is not None:
            raise ValueError("reads must be one for each network, of the first none")
        if len(weights) != self._num_weights:
            raise ValueError("weights must be as many as those of the networks")

    def _cut(self, batch: int) -> tuple[int, int]:
        """Blocks of rows, and the threads that are worth while."""
        blocks = -(-batch // BLOCK)
        return blocks, max(1, min(torch.get_num_threads(), blocks, batch * self._macs // _MACS_PER_THREAD))


def _pieces(wiring: Wiring) -> int:
    """Of the work on the gradients of weights: see ``backward_weights``."""
    widths = [wiring.features, wiring.context_features, *(wire.width for wire in wiring.wires)]
    read = [widths[value] for wire in wiring.wires for value, _ in wire.terms]
    return sum(-(-width // SEGMENT) for width in read) + sum(wire.bias >= 0 for wire in wiring.wires)
