"""Masked products, group by group of a mask plan; threads split the groups."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from made_fast.backends.numba.jit import in_threads, jit
from made_fast.masks.plan import GROUP_ROWS, GroupColumn, MaskPlan, MaskSide
from made_fast.programs.functions import FUNCTIONS

__all__ = ["masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight"]

POSITIONS, BITS, SIZE = int(GroupColumn.POSITIONS), int(GroupColumn.BITS), int(GroupColumn.SIZE)
PARTIAL_FROM, PARTIAL_TO = int(GroupColumn.PARTIAL_FROM), int(GroupColumn.PARTIAL_TO)
NUM_ROWS = int(GroupColumn.NUM_ROWS)
BLOCK = 128  # terms summed before they are added to the sum: a long sum rounds less by blocks


def masked_linear(
    x: Tensor, weight: Tensor, plan: MaskPlan, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """See ``reference.masked_linear``; tensors contiguous, x (B, in)."""
    shift = weight.new_zeros(plan.shape[0]) if bias is None else bias
    return FUNCTIONS[activation](_matmul(plan.forward, x, weight, shift, False))


def masked_linear_grad_input(grad: Tensor, weight: Tensor, plan: MaskPlan) -> Tensor:
    """See ``reference.masked_linear_grad_input``; tensors contiguous, grad (B, out)."""
    return _matmul(plan.backward, grad, weight, weight.new_zeros(plan.shape[1]), True)


def masked_linear_grad_weight(grad: Tensor, x: Tensor, plan: MaskPlan) -> Tensor:
    """See ``reference.masked_linear_grad_weight``; tensors contiguous, grad (B, out), x (B, in)."""
    side, out = plan.forward, grad.new_zeros(plan.shape)
    arguments = (grad.numpy(), x.numpy(), *_arrays(side), out.numpy())
    in_threads(_outer_groups, arguments, len(side.groups))
    return out


def _matmul(side: MaskSide, x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    sums = x.new_empty(len(side.rows), x.shape[0])
    inputs = np.ascontiguousarray(x.numpy().T)
    arguments = (inputs, weight.detach().numpy(), bias.numpy(), transposed, *_arrays(side), sums.numpy())
    in_threads(_matmul_groups, arguments, len(side.groups))
    return sums.T.contiguous()


def _arrays(side: MaskSide) -> tuple[NDArray[np.generic], ...]:
    return side.rows, side.columns, side.groups, side.positions, side.bits


@jit
def _matmul_groups(inputs, weight, bias, transposed, rows, columns, groups, positions, bits, sums, start, stop):
    """sums (rows, B) = bias + kept weights times inputs (columns, B), for the groups [start, stop)."""
    for number in range(start, stop):
        first, first_bits, size = groups[number, POSITIONS], groups[number, BITS], groups[number, SIZE]
        low, high = groups[number, PARTIAL_FROM], groups[number, PARTIAL_TO]
        for unit in range(groups[number, NUM_ROWS]):
            row = rows[number * GROUP_ROWS + unit]
            total = sums[row]
            total[:] = bias[row]
            for begin in range(0, size, BLOCK):
                part = np.zeros_like(total)
                for j in range(begin, min(begin + BLOCK, size)):
                    if low <= j < high and not (bits[first_bits + j - low] >> unit) & 1:
                        continue
                    column = columns[positions[first + j]]
                    value = weight[column, row] if transposed else weight[row, column]
                    column_inputs = inputs[column]
                    for i in range(len(part)):
                        part[i] += value * column_inputs[i]
                total += part


@jit
def _outer_groups(grad, x, rows, columns, groups, positions, bits, out, start, stop):
    """out (rows, columns) = grad (B, rows) transposed times x (B, columns) where kept, for the groups [start, stop)."""
    for number in range(start, stop):
        first, first_bits, size = groups[number, POSITIONS], groups[number, BITS], groups[number, SIZE]
        low, high = groups[number, PARTIAL_FROM], groups[number, PARTIAL_TO]
        count = groups[number, NUM_ROWS]
        sums = np.zeros((count, size), dtype=out.dtype)
        values = np.empty(size, dtype=out.dtype)
        for begin in range(0, len(x), BLOCK):
            part = np.zeros_like(sums)
            for i in range(begin, min(begin + BLOCK, len(x))):
                for j in range(size):
                    values[j] = x[i, columns[positions[first + j]]]
                for unit in range(count):
                    factor, total = grad[i, rows[number * GROUP_ROWS + unit]], part[unit]
                    for j in range(size):
                        total[j] += factor * values[j]
            sums += part
        for unit in range(count):
            for j in range(size):
                if not low <= j < high or (bits[first_bits + j - low] >> unit) & 1:
                    out[rows[number * GROUP_ROWS + unit], columns[positions[first + j]]] = sums[unit, j]
