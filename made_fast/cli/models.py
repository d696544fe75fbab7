"""Model files of both kinds, and rows that go with them, as commands take them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.models.made import MADE
    from made_fast.tables.table import Table

__all__ = ["context_of", "frames_of", "read_model"]


def read_model(path: Path) -> MADE | Table:
    """The table of a file that holds one, and else the model."""
    from made_fast.models.made import MADE
    from made_fast.tables.table import Table

    model = MADE.load(path)
    table = Table._of_file(path, model)
    return model if table is None else table


def context_of(model: MADE, path: Path | None) -> Tensor | None:
    """The contexts of a file for a model that takes them, (N, C).

    Raises:
        ValueError: the model takes none, or none are given; or the file has rows of another width.
    """
    from made_fast.datasets.arrays import read_matrix

    width = model.context_features
    if path is None:
        if width:
            raise ValueError(f"--context must be given: the model has {width} context variables")
        return None
    if not width:
        raise ValueError(f"--context must be left out: the model has no context variables, got {path}")
    found = read_matrix(path)
    if found.shape[1] != width:
        raise ValueError(f"--context must have {width} columns as the model has, got {found.shape[1]} in {path}")
    return found.to(model.parameters_layer.weight.dtype)


def frames_of(table: Table, path: Path, separator: str) -> Any:
    """A file of rows of a table, read as the table's columns are."""
    from made_fast.datasets.frames import FrameFile

    text = [each.name for each in table.schema.columns if each.of == "text"]
    return FrameFile(path, separator, text)
