"""Rows drawn where some cells are known or a query holds: candidates, of which one is chosen by its weight."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from made_fast.noise import uniform
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.estimates import effective_sample_size
from made_fast.tables.cells import Cells
from made_fast.tables.columns import FittedColumn
from made_fast.tables.schema import Schema

__all__ = ["Wanted", "kept_cells", "wanted_of"]

_IMPOSSIBLE = "where must hold for some row that has the cells that are given, got a query of probability 0"
_NUMBERS = 1 << 24  # of candidates that are drawn at once
_FEW = 5  # candidates that carry a row's weight, below which a warning is due


@dataclass(frozen=True)
class Wanted:
    """What is known of rows that are to be drawn.

    Attributes:
        given: (N, D) fp64 values, read where observed.
        observed: (N, D) bool.
        filled: (N, columns) bool: which columns without an indicator must be there, though their cell is not known.
        allowed: what variables may be, in all rows; see ``sample`` of a model.
    """

    given: Tensor
    observed: Tensor
    filled: Tensor
    allowed: Mapping[int, Any]

    def repeated(self, count: int) -> Wanted:
        """Each row so many times, one after another."""
        given, observed, filled = (
            part.repeat_interleave(count, 0) for part in (self.given, self.observed, self.filled)
        )
        return Wanted(given, observed, filled, self.allowed)

    def drawn(
        self, schema: Schema, draws: Draws, order: Tensor, *, candidates: int, seed: int, first_row: int, count: int
    ) -> Tensor:
        """A row of variables (N, D) for each.

        Args:
            schema, draws: of the table.
            order: of the variables, (D,).
            candidates: that are drawn for each row whose weights differ.
            seed: of the noise.
            first_row: number of the first row of the noise.
            count: rows in a row that were made of one, for messages.

        Raises:
            ValueError: a row has probability 0.
        """
        chosen, few = torch.empty_like(self.given), 0
        numbers = first_row + torch.arange(len(self.given))
        chances = uniform(
            seed, numbers * candidates, self.given.shape[1]
        ).double()  # a step after those of the variables
        late = self._is_late(schema, order)
        for rows, each in ((torch.nonzero(~late)[:, 0], 1), (torch.nonzero(late)[:, 0], candidates)):
            for part in rows.split(max(1, _NUMBERS // (each * self.given.shape[1]))) if len(rows) else ():
                noise = (numbers[part, None] * candidates + torch.arange(each)).flatten()
                known: dict[str, Any] = {"given": self.given[part], "observed": self.observed[part]}
                known["allowed"] = self._allowed(schema, part)
                try:
                    x, log_weight = _candidates(draws, each, seed=seed, rows=noise, **known)
                except ValueError as error:
                    if "the probability is 0" not in str(error):
                        raise
                    raise ValueError(_IMPOSSIBLE) from None
                weight = log_weight.softmax(-1)
                if (each > 1 or self.allowed) and weight.isnan().any():  # cells alone that come first need no weight
                    row = int(part[weight.isnan().any(-1)][0]) // count
                    if self.allowed:
                        raise ValueError(f"{_IMPOSSIBLE} in row {row}")
                    raise ValueError(
                        f"given must hold cells that the model can have, got such of probability 0 in row {row}"
                    )
                few += int((effective_sample_size(log_weight) < min(_FEW, each)).sum()) if each > 1 else 0
                pick = (weight.cumsum(-1) < chances[part, None]).sum(-1).clamp(max=each - 1)
                chosen[part] = x[torch.arange(len(part)), pick]
        if few:
            warnings.warn(
                f"in {few} of {len(self.given)} rows fewer than {_FEW} of {candidates} candidates carry the weight: raise "
                "candidates, or fit with the known columns first",
                stacklevel=4,
            )
        return chosen

    def _is_late(self, schema: Schema, order: Tensor) -> Tensor:
        """(N,) bool: which rows know something of a variable that is drawn after an unknown one, so that weights differ."""
        held = self.observed.clone()
        held[:, torch.tensor(schema.starts[1:]) - 1] |= self.filled
        held[:, list(self.allowed)] = True
        unknown = (~self.observed[:, order]).cumsum(1) > 0
        return (unknown[:, :-1] & held[:, order][:, 1:]).any(1)

    def _allowed(self, schema: Schema, part: Tensor) -> Any:
        """What variables may be in some rows (m,): of columns that must be there the category of missing left out."""
        if not bool(self.filled[part].any()):
            return dict(self.allowed) or None
        found = []
        for row in self.filled[part]:
            made = dict(self.allowed)
            for place in torch.nonzero(row)[:, 0].tolist():
                variable, values = schema.starts[place], set(range(len(schema.columns[place].values)))  # type: ignore[attr-defined]
                made[variable] = values & set(made.get(variable, values))
            found.append(made)
        return found


def _candidates(draws: Draws, count: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Variables (N, count, D) and log-weights (N, count), fp64 on the CPU; the options are those of ``sample``."""
    request = Request.checked(draws.conditionals, draws.context_features, count, **options)
    request.check_possible()
    x, _, log_weight = draws._drawn(request, False)  # `sample` itself would warn of weights that are used up here
    assert log_weight is not None
    shape = request.shape
    return x.double().cpu().reshape(*shape, draws.features), log_weight.double().cpu().reshape(shape)


def wanted_of(schema: Schema, known: Mapping[str, Cells] | None, rows: int, allowed: Mapping[int, Any]) -> Wanted:
    """What cells and a query want of rows.

    Args:
        schema: of the table.
        known: cells of some of its columns; or None.
        rows: how many, where no cells are known.
        allowed: by a query, see ``queries.allowed_of``.

    Raises:
        ValueError: there are no cells, or a column has one that is none of it.
    """
    if known is not None:
        rows = len(next(iter(known.values()))) if known else 0
        if not rows:
            raise ValueError("given must have at least one row and one column, got none")
    starts = schema.starts
    given = torch.zeros(rows, starts[-1], dtype=torch.float64)
    observed = torch.zeros(rows, starts[-1], dtype=torch.bool)
    filled = torch.zeros(rows, len(schema.columns), dtype=torch.bool)
    for name, cells in (known or {}).items():
        place = schema.place(name)
        column, present = schema.columns[place], torch.from_numpy(np.ascontiguousarray(cells.present))
        values = schema.encoded_column(place, _some(column, cells))
        given[:, starts[place] : starts[place + 1]] = values
        observed[:, starts[place + 1] - 1] = present
        if column.has_indicator:  # known to be there, whether it is known or to be filled
            given[:, starts[place]], observed[:, starts[place]] = 1, True
        elif column.missing:
            filled[:, place] = ~present
    return Wanted(given, observed, filled, allowed)


def _some(column: FittedColumn, cells: Cells) -> Cells:
    """Cells with some value of the column wherever one is missing and none may be; those are not read."""
    if column.missing or cells.present.all():
        return cells
    if not cells.present.any():
        return column.decode(np.zeros((len(cells), column.num_variables)))
    values = np.where(cells.present, cells.values, cells.values[cells.present][0])
    return replace(cells, values=values, present=np.ones(len(cells), dtype=bool))


def kept_cells(drawn: Cells, known: Cells, count: int) -> Cells:
    """What was known, as it was, each cell so many times, and what was drawn elsewhere."""
    present = known.present.repeat(count)
    if drawn.of != known.of or not present.any():  # flags that were given as numbers, or nothing is known
        return drawn
    values = np.where(present, known.values.repeat(count), drawn.values).astype(drawn.values.dtype)
    return replace(drawn, values=values, present=present | drawn.present)
