"""Small tables whose every row can be listed, over models that were not trained."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from made_fast import MADE
from made_fast.tables import Column, Schema, Table


def frame(rows: int = 400) -> dict[str, Any]:
    """A category and a bit, both with holes, two kinds of whole numbers, one with holes, and a real number with holes."""
    made = np.random.default_rng(0)
    city = made.choice(np.array(["Lima", "Oslo", "Rome"], dtype=object), rows)
    city[made.random(rows) < 0.2] = None
    real = made.normal(50.0, 7.0, rows)
    count = made.integers(0, 4, rows).astype(float)
    flag = made.choice(np.array([True, False, None], dtype=object), rows)
    size = made.integers(1, 4, rows)
    for holes in (real, count):
        holes[made.random(rows) < 0.4] = np.nan
    return {"real": real, "count": count, "city": city, "flag": flag, "size": size}


COLUMNS = {"count": Column("integer", low=0, high=3)}


def table_of(data: Any, columns: Any = None, *, seed: int = 0, strength: float = 3.0) -> Table:
    """A table with the columns of a frame, and weights by chance."""
    schema = Schema.of(data, columns)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MADE(schema.starts[-1], (24,), output=schema.output(2, 0.1), direct=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(strength)
    return Table(schema, model.eval())


def every_row(values: dict[str, list[Any]]) -> dict[str, Any]:
    """All rows of these values, as a frame."""
    rows = list(itertools.product(*values.values()))
    columns = {}
    for place, name in enumerate(values):
        column = np.empty(len(rows), dtype=object)
        column[:] = [row[place] for row in rows]
        columns[name] = column
    return columns
