"""A piece of a request: what one call of a backend draws."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.requests.conditions import Conditions

__all__ = ["Piece"]


class Piece(NamedTuple):
    """Rows of a request that one call of a backend draws; all tensors contiguous and on the device of the program.

    Attributes:
        seed: of the noise.
        first_row: noise row of the request's row 0.
        row_offset: which row of the request is the first of the piece.
        rows: (B,) int64, the noise row of each row of the piece instead of ``first_row + row_offset + i``; or None.
        context: (N, C), dtype of the program; row ``i`` of the request has context ``i // rows_per_condition``. Or None.
        conditions: N rows of them, or None.
        rows_per_condition: rows that share a context and conditions.
        decoding: how conditionals are changed.
        log_prob: (B,), dtype of the program: written, the model's log-probability without conditions and decoding. Or None.
        log_weight: (B,), likewise: the log of the probability of what is observed and of the mass of what is allowed, summed
            over the variables, each given the ones before it. Or None.
    """

    seed: int
    first_row: int = 0
    row_offset: int = 0
    rows: Tensor | None = None
    context: Tensor | None = None
    conditions: Conditions | None = None
    rows_per_condition: int = 1
    decoding: Decoding = PLAIN
    log_prob: Tensor | None = None
    log_weight: Tensor | None = None

    def part(self, start: int, stop: int) -> Piece:
        """The rows [start, stop) of this piece."""

        def rows_of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[start:stop]

        return self._replace(
            row_offset=self.row_offset + start,
            rows=rows_of(self.rows),
            log_prob=rows_of(self.log_prob),
            log_weight=rows_of(self.log_weight),
        )
