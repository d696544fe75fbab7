"""Whole networks in one call of the engine: forward, and backward from what the forward kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from made_fast import _core
from made_fast.backends.cpp.engine import instruction_set
from made_fast.backends.known import ReadyNetwork, ReadyNetworks, new_results
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.wiring import HEADS, Wiring

__all__ = ["Network", "NetworkColumn", "Networks", "Unchanged"]

Unchanged = _core.Unchanged  # of made_fast/layers/unchanged.py

_BLOCK_ROWS = 64  # kBlockRows of csrc/plan/network.h
_MACS_PER_THREAD = 1_000_000  # of a forward pass
_MOST_THREADS = 64  # kMostBlocksAtOnce
_BLOCKS_SUMMED = 4  # kBlocksSummed: whole ones, so that sums do not depend on the threads


class NetworkColumn(IntEnum):
    """Columns of the operations of a network; they are those of csrc/plan/codes.h."""

    KIND = 0
    LEFT = 1
    RIGHT = 2
    FUNCTION = 3
    WIDTH = 4
    BIAS = 5


class Network(ReadyNetwork):
    """A network made ready: its operations and masks, but no weights.

    Args:
        wiring: the operations.
        masks: by the number of its weight, the mask of each, bool (out, in).

    Attributes:
        native: what the engine made of it.
        macs: multiply-adds of a forward pass of one row.
    """

    def __init__(self, wiring: Wiring, masks: Mapping[int, Tensor]) -> None:
        rows = [
            [int(wire.kind), wire.left, wire.right, FUNCTION_CODES[wire.function], wire.width, wire.bias]
            for wire in wiring.wires
        ]
        arrays = {number: np.ascontiguousarray(mask.numpy()) for number, mask in masks.items()}
        self.wiring = wiring
        self.native = _core.Network(
            features=wiring.features,
            context_features=wiring.context_features,
            num_weights=wiring.num_weights,
            ops=np.array(rows, dtype=np.int64).reshape(-1, len(NetworkColumn)),
            terms=[[(value, weight, arrays[weight]) for value, weight in wire.terms] for wire in wiring.wires],
            categories=np.array(wiring.categories, dtype=np.int64),
        )
        self.macs = int(self.native.macs)
        super().__init__(self.native)

    def _chained(self, networks: Sequence[Network]) -> Networks:
        return Networks(networks)


class Networks(ReadyNetworks):
    """Networks one after another, each reading the z of the one before.

    Args:
        networks: of the same D and C, 64 at most.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._wiring = networks[-1].wiring
        self._natives = [each.native for each in networks]
        self._macs = sum(each.macs for each in networks)
        self._sizes: dict[int, tuple[int, int]] = {}  # of values of a block, and of so many rooms

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
        batch, blocks, threads = self._cut(x.shape[0])
        block_values, room_size = self._sizes_of(threads)
        values = x.new_empty(block_values * (blocks if keep else threads))
        room = x.new_empty(room_size)
        out, total = new_results(head, self._wiring, x)
        call = _core.network_forward_f64 if x.dtype == torch.float64 else _core.network_forward_f32
        done = call(
            self._natives,
            [_address(each) for each in reads],
            instruction_set(),
            HEADS.index(head),
            floor,
            batch,
            x.data_ptr(),
            _address(context),
            weights,
            values.data_ptr(),
            room.data_ptr(),
            _address(out),
            _address(total),
            keep,
            threads,
            finite,
        )
        return (out, total, values) if done else None

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
        batch, blocks, threads = self._cut(batch)
        at_once = min(blocks, -(-threads // _BLOCKS_SUMMED) * _BLOCKS_SUMMED)
        room = values.new_empty(self._sizes_of(at_once)[1])
        call = _core.network_backward_f64 if values.dtype == torch.float64 else _core.network_backward_f32
        return call(
            self._natives,
            [_address(each) for each in reads],
            instruction_set(),
            HEADS.index(head),
            floor,
            batch,
            weights,
            values.data_ptr(),
            room.data_ptr(),
            *map(_address, (*grads, *into)),
            [0 if each is None else each.data_ptr() for each in into_weights],
            threads,
            at_once,
            finite,
        )

    def _cut(self, batch: int) -> tuple[int, int, int]:
        """Rows, blocks of them, and the threads that are worth while."""
        blocks = -(-batch // _BLOCK_ROWS)
        return (
            batch,
            blocks,
            max(1, min(torch.get_num_threads(), _MOST_THREADS, blocks, batch * self._macs // _MACS_PER_THREAD)),
        )

    def _sizes_of(self, rooms: int) -> tuple[int, int]:
        found = self._sizes.get(rooms)
        if found is None:
            found = self._sizes[rooms] = _core.network_sizes(self._natives, rooms)
        return found


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
