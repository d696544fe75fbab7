"""Schema: the columns of a table as variables of a model; rows as tensors, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import torch
from torch import Tensor

from made_fast.arguments import described, shown
from made_fast.outputs import Mixed
from made_fast.tables.categories import Categories
from made_fast.tables.cells import Cells
from made_fast.tables.choosing import KINDS, choose, wishes_of
from made_fast.tables.columns import FittedColumn
from made_fast.tables.frames import Form, drawn_dtype, read
from made_fast.tables.numbers import Levels, Numbers
from made_fast.tables.scales import Scale

__all__ = ["Schema"]

_FORMAT = "made_fast table 1"
_CLASSES: dict[str, type[FittedColumn]] = {"categories": Categories, "levels": Levels, "numbers": Numbers}
_AT_ONCE = 1 << 16  # rows that are encoded at once
_MOST = 1 << 20  # values or knots of a column in a file


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order in which they are drawn.

    A column is one variable, or two where cells of numbers may be missing: a bit that says whether the cell is present, and
    then its value. Missing categories are a category of their own.

    Attributes:
        columns: as the model has them; print the schema to see them.
        form: the library and the dtypes of frames that are given back.
    """

    columns: tuple[FittedColumn, ...]
    form: Form

    @classmethod
    def of(cls, frame: Any, columns: Mapping[str, Any] | None = None) -> Schema:
        """Decides by the cells of a frame what its columns are.

        Args:
            frame: of pandas, polars or pyarrow, or a mapping from names to arrays; at least one row and one column.
            columns: by name what is known better, a ``Column`` or the name of a kind.

        Raises:
            ValueError: the frame has no cells, a name twice, or a column that is none; the message names it.
        """
        cells, form = read(frame)
        return cls.of_cells(cells, form, columns)

    @classmethod
    def of_cells(cls, cells: Mapping[str, Cells], form: Form, columns: Mapping[str, Any] | None = None) -> Schema:
        """The same of cells that were read from a frame of this form."""
        if not cells or not len(next(iter(cells.values()))):
            rows = len(next(iter(cells.values()))) if cells else 0
            raise ValueError(
                f"frame must have at least one row and one column, got {rows} rows and {len(cells)} columns"
            )
        wishes = wishes_of(cells, columns)
        chosen = tuple(choose(name, each, wishes[name]) for name, each in cells.items())
        return cls(chosen, Form(form.library, {each.name: _drawn_dtype(each, form) for each in chosen}))

    @property
    def names(self) -> list[str]:
        """Those of the columns."""
        return [each.name for each in self.columns]

    @property
    def starts(self) -> list[int]:
        """The number of the first variable of each column, and that of all variables D."""
        return list(accumulate((each.num_variables for each in self.columns), initial=0))

    @property
    def indicators(self) -> dict[int, int]:
        """Of each variable that may be absent the number of the bit that says whether it is there."""
        starts = self.starts
        return {start + 1: start for start, each in zip(starts, self.columns, strict=False) if each.has_indicator}

    @property
    def rounded(self) -> list[int]:
        """The numbers of variables that have the mass of a bin."""
        ends = self.starts[1:]
        return [end - 1 for end, each in zip(ends, self.columns, strict=True) if each.rounded]

    def output(self, components: int, floor: float) -> Mixed:
        """The outputs of all variables.

        Args:
            components: of mixtures.
            floor: least scale of real numbers, in the units of the model, where a column's deviation is about 1.
        """
        return Mixed([each for column in self.columns for each in column.outputs(components, floor)])

    def place(self, name: object) -> int:
        """The number of a column; a ValueError where there is none of that name."""
        if name not in self.names:
            raise ValueError(f"column must be one of {', '.join(map(repr, self.names))}; got {name!r}")
        return self.names.index(str(name))

    def encode(self, frame: Any) -> Tensor:
        """A frame as rows of the likelihood, fp64 (N, D + 2 R + 1).

        These are the D variables; of each of the R rounded ones the distances to the lower and the upper edge of its bin; and
        the log of what turns densities of the model into those of the columns.

        A tensor of such rows is given back as it is.

        Raises:
            ValueError: a column is missing or unknown, or a cell is none of its column.
        """
        width = self.starts[-1] + 2 * len(self.rounded) + 1
        if isinstance(frame, Tensor):
            if frame.ndim != 2 or frame.shape[1] != width or not frame.is_floating_point():
                raise ValueError(
                    f"frame must be rows (N, {width}) of Schema.encode where it is a tensor, got {described(frame)}"
                )
            return frame
        cells, _ = read(frame)
        self.check_names(cells, whole=True)
        total = len(next(iter(cells.values())))
        rows = torch.empty(total, width, dtype=torch.float64)
        for first in range(0, total, _AT_ONCE):
            part = {name: _rows(each, first, first + _AT_ONCE) for name, each in cells.items()}
            rows[first : first + _AT_ONCE] = torch.from_numpy(self._encoded(part, first))
        return rows

    def check_names(self, cells: Mapping[str, Cells], *, whole: bool) -> None:
        """Raises ValueError where a frame has a column that there is not, or, if whole, lacks one."""
        for name in cells:
            self.place(name)
        left = [name for name in self.names if name not in cells]
        if whole and left:
            raise ValueError(f"frame must have column {left[0]!r}, got {', '.join(map(repr, cells)) or 'none'}")

    def encoded_column(self, place: int, cells: Cells) -> Tensor:
        """The variables of one column, fp64 (N, n)."""
        return torch.from_numpy(self.columns[place].encode(cells).x)

    def decode(self, x: Tensor) -> dict[str, Cells]:
        """Rows of variables (N, D) as cells."""
        rows = x.double().cpu().numpy()
        bounds = zip(self.columns, self.starts, self.starts[1:], strict=False)
        return {each.name: each.decode(rows[:, first:last]) for each, first, last in bounds}

    def _encoded(self, cells: Mapping[str, Cells], first: int) -> Any:
        try:
            parts = [column.encode(cells[column.name]) for column in self.columns]
        except ValueError as error:
            raise ValueError(f"{error}" + (f" after the first {first}" if first else "")) from None
        edges = [edge[:, None] for part in parts for edge in (part.below, part.above) if edge is not None]
        slopes = [part.log_slope for part in parts if part.log_slope is not None]
        total = np.sum(slopes, axis=0) if slopes else np.zeros(len(parts[0].x))
        return np.concatenate([*(part.x for part in parts), *edges, total[:, None]], axis=1)

    def to_json(self) -> str:
        """All of it as text."""
        kinds = {kind: name for name, kind in _CLASSES.items()}
        columns = [{"class": kinds[type(each)], **dataclasses.asdict(each)} for each in self.columns]
        return json.dumps({"format": _FORMAT, "columns": columns, "form": dataclasses.asdict(self.form)})

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Reads what ``to_json`` wrote. Nothing of it is run.

        Raises:
            ValueError: it is something else.
        """
        try:
            found = json.loads(text)
            if found.get("format") != _FORMAT:
                raise ValueError(f"its format is {shown(found.get('format'))}")
            columns = tuple(_column_of(each) for each in found["columns"])
            library, dtypes = found["form"]["library"], found["form"]["dtypes"]
            names = [each.name for each in columns]
            if not columns or len(set(names)) < len(names) or not set(names) <= set(dtypes) or type(library) is not str:
                raise ValueError("its columns do not fit its form")
            return cls(columns, Form(library, {name: dict(dtypes[name]) for name in names}))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"schema must be what Schema.to_json wrote: {' '.join(str(error).split())}") from None

    def __str__(self) -> str:
        """A line for each column."""
        width = max(map(len, self.names))
        holes = {True: ", cells may be missing", False: ""}
        return "\n".join(f"{each.name:{width}}  {each.kind:8}  {each}{holes[each.missing]}" for each in self.columns)


def _drawn_dtype(column: FittedColumn, form: Form) -> Mapping[str, Any]:
    """The dtype in which a frame of this form holds what the column draws."""
    missing = column.missing and form.library == "pandas"  # arrays of numpy hold objects then, others have holes anyhow
    values = column.values if isinstance(column, Categories) else ()
    real = (
        not column.whole
        if isinstance(column, Numbers)
        else column.of == "number" and any(value % 1 for value in values)
    )
    return drawn_dtype(form.dtypes[column.name], missing=missing, real=real, values=values)


def _rows(cells: Cells, first: int, last: int) -> Cells:
    return dataclasses.replace(cells, values=cells.values[first:last], present=cells.present[first:last])


def _column_of(described: dict[str, Any]) -> FittedColumn:
    """A column from its description, each part of which is of its type."""
    described = dict(described)
    kind = _CLASSES[described.pop("class")]
    fields = {each.name for each in dataclasses.fields(kind)}
    if set(described) != fields:
        raise ValueError(f"its columns have the parts {sorted(described)}")
    if "scale" in described:
        described["scale"] = _scale_of(**described["scale"])
    if "values" in described:
        described["values"] = tuple(_checked_values(described["values"]))
    column = kind(**described)
    types: dict[str, type] = {"name": str, "missing": bool, "reserved": bool, "whole": bool, "low": int, "high": int}
    for name, wanted in types.items():
        if name in fields and type(described[name]) is not wanted:
            raise ValueError(f"{name} is {shown(described[name])}")
    of_kind = column.kind in KINDS and column.of in ("text", "flag", "number", "moment")
    if not of_kind or column.unit not in (("day", "second") if column.of == "moment" else ("",)):
        raise ValueError(f"column {shown(column.name)} is {shown(column.kind)} of {shown(column.of)}")
    if column.zone is not None:
        ZoneInfo(column.zone)
    least = 0 if isinstance(column, Numbers) else 1
    if isinstance(column, (Levels, Numbers)) and not (-(2**53) <= column.low <= column.high - least <= 2**53):
        raise ValueError(f"its range is {column.low} .. {column.high}")
    return column


def _checked_values(values: Sequence[Any]) -> Sequence[Any]:
    wrong = not isinstance(values, list) or not 0 < len(values) <= _MOST
    if wrong or not all(type(each) in (str, bool, int, float) for each in values):
        raise ValueError("its values are none")
    return values


def _scale_of(knots: Sequence[float], places: Sequence[float]) -> Scale:
    for each in (knots, places):
        numbers = all(type(value) is float and math.isfinite(value) for value in each)
        if not numbers or not all(low < high for low, high in pairwise(each)):
            raise ValueError("its knots do not increase")
    if len(knots) != len(places) or not 2 <= len(knots) <= _MOST:
        raise ValueError("its knots do not fit their places")
    return Scale(tuple(knots), tuple(places))
