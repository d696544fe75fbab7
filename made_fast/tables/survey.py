"""Tables that no memory holds: columns are decided on a first pass over chunks, rows are encoded into files on a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from made_fast.tables.cells import PER, Array, Cells
from made_fast.tables.choosing import MOST_CATEGORIES
from made_fast.tables.frames import Form, read
from made_fast.tables.schema import Schema

__all__ = ["Survey", "encode_parts"]

_SAMPLE, _LEAST = 1 << 17, 1 << 13  # rows that stand for all where scales are found: so many, of wide tables fewer
_CELLS = 1 << 24  # of such rows
_MOST_TEXTS = 1 << 20  # different ones of a column, which are counted
_SPREAD = 64  # numbers that stand for too many different ones


class Survey:
    """What a pass over the chunks of a table finds: all that decides what its columns are, in bounded memory.

    Of each column these are the cells of so many rows chosen by chance, all different values where they are few, the least
    and the greatest number, one with a fraction if there is any, and whether a cell is missing. So a category that occurs
    once in the last chunk is known, ranges hold all numbers, and only means, deviations and quantiles are those of a sample.
    A table of fewer rows than the sample has the columns of ``Schema.of``, exactly.

    Attributes:
        rows: that were added.
    """

    def __init__(self) -> None:
        self.rows, self._most = 0, _SAMPLE
        self._sample: dict[str, Cells] = {}
        self._keys: Array = np.zeros(0)
        self._seen: dict[str, _Seen] = {}
        self._form: Form | None = None

    def add(self, frame: Any) -> None:
        """Looks at the next chunk.

        Raises:
            ValueError: it has other columns than those before, or cells of another type, or such as no kind of column takes.
        """
        cells, form = read(frame)
        if self._form is None:
            self._form, nothing = form, np.zeros(0, dtype=np.int64)
            self._most = min(_SAMPLE, max(_LEAST, _CELLS // max(1, len(cells))))
            self._sample = {name: _rows(each, nothing) for name, each in cells.items()}
            self._seen = {name: _Seen(name, each) for name, each in self._sample.items()}
        elif [*cells] != [*self._seen]:
            raise ValueError(
                f"chunks must have the columns of the first, {', '.join(self._seen)}; got {', '.join(cells)}"
            )
        cells = {name: self._seen[name].alike(each) for name, each in cells.items()}
        count = len(next(iter(cells.values()))) if cells else 0
        # The rows with the smallest of random numbers are a sample without replacement.
        keys = np.concatenate([self._keys, np.random.default_rng([self.rows, 0]).random(count)])
        kept = np.arange(len(keys))
        if len(keys) > self._most:
            kept = np.sort(np.argpartition(keys, self._most)[: self._most])  # in the order of the file
        self._keys = keys[kept]
        for name, each in cells.items():
            self._sample[name] = _rows(_joined(self._sample[name], each), kept)
            self._seen[name].add(each)
        self.rows += count

    @property
    def texts(self) -> list[str]:
        """The names of columns of text."""
        return [name for name, each in self._seen.items() if each.like.of == "text"]

    def schema(self, columns: Mapping[str, Any] | None = None) -> Schema:
        """What the columns are; see ``Schema.of``.

        Raises:
            ValueError: there is no row, or a column that is none.
        """
        cells = self._sample
        if self.rows > self._most:
            seen = {name: each.cells() for name, each in self._seen.items()}
            # Of text all values are seen, each as often as counts; of numbers the sample has what scales are found from.
            cells = {
                name: seen[name] if each.of == "text" else _joined(each, seen[name]) for name, each in cells.items()
            }
        return Schema.of_cells(cells, self._form or Form("mapping", {}), columns)


class _Seen:
    """Of one column what a sample may lack: different values, twice where they occur more than once, and a missing cell."""

    def __init__(self, name: str, like: Cells) -> None:
        self.name, self.like, self.missing = name, like, False
        self.texts: Counter[Any] = Counter()
        self.numbers: Array = like.values[:0]
        self.many = False

    def alike(self, cells: Cells) -> Cells:
        """The cells, of the type that the column has; where all are missing a file may say another."""
        if cells.of == self.like.of:
            return cells
        if cells.present.any():
            raise ValueError(f"column {self.name!r} must hold {self.like.of}s in all chunks, got {cells.of}s")
        return replace(self.like, values=np.zeros(len(cells), dtype=self.like.values.dtype), present=cells.present)

    def add(self, cells: Cells) -> None:
        self.missing |= not bool(cells.present.all())
        found = cells.values[cells.present]
        if cells.of == "text":
            self.texts.update(found.tolist())
            if len(self.texts) > _MOST_TEXTS:
                raise ValueError(
                    f"column {self.name!r} must have at most {_MOST_TEXTS:,} different texts: leave it out"
                )
            return
        values, counts = np.unique(np.concatenate([self.numbers, found]), return_counts=True)
        if self.many or len(values) > MOST_CATEGORIES + 1:
            self.many = True
            self.numbers = _few(values, cells.of)
        else:
            self.numbers = np.repeat(values, np.minimum(counts, 2))

    def cells(self) -> Cells:
        """These as cells."""
        if self.like.of == "text":
            listed = [text for text, count in self.texts.items() for _ in range(min(count, 2))]
            values: Array = np.empty(len(listed), dtype=object)
            values[:] = listed
        else:
            values = self.numbers
        values = np.concatenate([values, np.zeros(int(self.missing), dtype=values.dtype)])
        present = np.arange(len(values)) < len(values) - self.missing
        return replace(self.like, values=values, present=present)


def _few(values: Array, of: str) -> Array:
    """Some of many sorted numbers: the ends, a few between them, and such as have a part of a second or of a day, or of 1."""
    chosen = [values[np.linspace(0, len(values) - 1, _SPREAD).astype(np.int64)]]
    for unit in PER.values() if of == "moment" else (1,):
        chosen.append(values[values % unit != 0][:1])
    return np.unique(np.concatenate(chosen))


def _rows(cells: Cells, places: Array) -> Cells:
    return replace(cells, values=cells.values[places], present=cells.present[places])


def _joined(first: Cells, second: Cells) -> Cells:
    """Cells after cells; numbers that are whole in one and real in the other are real."""
    values, present = (
        np.concatenate(pair) for pair in ((first.values, second.values), (first.present, second.present))
    )
    return replace(first, values=values, present=present)


def encode_parts(schema: Schema, chunks: Iterable[Any], parts: Array, folder: Path) -> list[Tensor]:
    """Rows of a table in files, as tensors that are read from the disk where they are used.

    Args:
        schema: of the table.
        chunks: frames of all rows.
        parts: (N,) whole numbers from 0 on: the part that each row belongs to.
        folder: where the files are made, one for each part; they must stay as long as the tensors.

    Returns:
        For each part the rows of ``Schema.encode`` in fp32.

    Raises:
        ValueError: a cell is none of its column, or there is another number of rows.
        OSError: the disk is full.
    """
    paths = [folder / f"part{number}" for number in range(int(parts.max()) + 1)]
    done, width = 0, 0
    with ExitStack() as opened:
        files = [opened.enter_context(open(path, "wb")) for path in paths]
        for chunk in chunks:
            try:
                rows = schema.encode(chunk).float().numpy()
            except ValueError as error:
                raise ValueError(f"{error}" + (f" after the first {done:,}" if done else "")) from None
            chosen, width = parts[done : done + len(rows)], rows.shape[1]
            if len(chosen) < len(rows):
                raise ValueError(f"chunks must hold {len(parts):,} rows in all, got more")
            for number, file in enumerate(files):
                file.write(rows[chosen == number].tobytes())
            done += len(rows)
    if done < len(parts):
        raise ValueError(f"chunks must hold {len(parts):,} rows in all, got {done:,}")
    # Copied where they are written to, which nobody does: torch wants no read-only arrays.
    mapped = [np.memmap(path, dtype=np.float32, mode="c").reshape(-1, width) for path in paths]
    return [torch.from_numpy(each) for each in mapped]
