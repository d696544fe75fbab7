"""Whole networks in one call of the engine: forward, and backward from what the forward kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from made_fast import _core
from made_fast.backends.cpp.engine import instruction_set
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.wiring import HEADS, Wiring

__all__ = ["Network", "NetworkColumn"]

_BLOCK_ROWS = 64  # kBlockRows of csrc/plan/network.h
_MACS_PER_THREAD = 1_000_000  # of a forward pass


class NetworkColumn(IntEnum):
    """Columns of the operations of a network; they are those of csrc/plan/codes.h."""

    KIND = 0
    LEFT = 1
    RIGHT = 2
    FUNCTION = 3
    WIDTH = 4
    BIAS = 5


class Network:
    """A network made ready: its operations and masks, but no weights.

    Args:
        wiring: the operations.
        masks: by the number of its weight, the mask of each, bool (out, in).

    Attributes:
        macs: multiply-adds of a forward pass of one row.
    """

    def __init__(self, wiring: Wiring, masks: Mapping[int, Tensor]) -> None:
        rows = [
            [int(wire.kind), wire.left, wire.right, FUNCTION_CODES[wire.function], wire.width, wire.bias]
            for wire in wiring.wires
        ]
        arrays = {number: np.ascontiguousarray(mask.numpy()) for number, mask in masks.items()}
        self.wiring = wiring
        self._native = _core.Network(
            features=wiring.features,
            context_features=wiring.context_features,
            num_weights=wiring.num_weights,
            ops=np.array(rows, dtype=np.int64),
            terms=[[(value, weight, arrays[weight]) for value, weight in wire.terms] for wire in wiring.wires],
        )
        self.macs = int(self._native.macs)
        self._block_values = int(self._native.num_values(1))
        self._room: dict[int, int] = {}  # numbers that so many threads need

    def forward(
        self, head: str, floor: float, x: Tensor, context: Tensor | None, weights: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Results of a head, and the values of all units.

        Args:
            head: of ``HEADS``.
            floor: of scales.
            x, context: (B, D) and (B, C) or None; contiguous, fp32 or fp64, B of 1 or more.
            weights: contiguous, of the same dtype.
            keep: whether the values are wanted; else their memory is bounded whatever B.

        Returns:
            (B, P), or z (B, D), or None; the total (B,) of a head or None; and the values.
        """
        batch, native = x.shape[0], self._native
        blocks = -(-batch // _BLOCK_ROWS)
        threads = max(1, min(torch.get_num_threads(), blocks, batch * self.macs // _MACS_PER_THREAD))
        values = x.new_empty(self._block_values * (blocks if keep else threads))
        room = x.new_empty(self._room_of(threads))
        total = None if head == "parameters" else x.new_empty(batch)
        width = {"parameters": self.wiring.wires[-1].width, "affine": self.wiring.features}.get(head)
        out = None if width is None else x.new_empty(batch, width)
        call = native.forward_f64 if x.dtype == torch.float64 else native.forward_f32
        call(
            instruction_set(),
            HEADS.index(head),
            floor,
            batch,
            x.data_ptr(),
            _address(context),
            [each.data_ptr() for each in weights],
            values.data_ptr(),
            room.data_ptr(),
            _address(out),
            _address(total),
            keep,
            threads,
        )
        return out, total, values

    def backward(
        self,
        head: str,
        floor: float,
        batch: int,
        weights: Sequence[Tensor],
        values: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        into: tuple[Tensor | None, Tensor | None],
        into_weights: Sequence[Tensor | None],
    ) -> None:
        """Writes the gradients of x and context, and adds to those of the weights.

        Args:
            head, floor, weights: as before.
            batch: B.
            values: from ``forward``, kept.
            grads: those of both results, contiguous, or None.
            into: (B, D) and (B, C), contiguous, or None where they are not wanted.
            into_weights: of the shapes of the weights, contiguous and zero, or None.
        """
        native = self._native
        call = native.backward_f64 if values.dtype == torch.float64 else native.backward_f32
        room = values.new_empty(self._room_of(1))
        call(
            instruction_set(),
            HEADS.index(head),
            floor,
            batch,
            [each.data_ptr() for each in weights],
            values.data_ptr(),
            room.data_ptr(),
            *map(_address, (*grads, *into)),
            [*map(_address, into_weights)],
        )

    def _room_of(self, threads: int) -> int:
        room = self._room.get(threads)
        if room is None:
            room = self._room[threads] = self._native.room(threads)
        return room


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
