"""Files of data frames, CSV and Parquet, read and written in chunks by polars or pyarrow, whichever is installed."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from made_fast.files import written_whole

__all__ = ["FRAMES", "FrameFile", "library", "write_frames"]

FRAMES = (".csv", ".parquet")
_ROWS = 1 << 16  # of a chunk
_FIRST = 10_000  # rows by which the types of a CSV's columns are guessed, before the rest is held against them
_NULLS = ["NA", "N/A", "n/a", "NaN", "nan", "NULL", "null"]  # besides nothing at all
_EXTRA = "pip install 'made_fast[tables]'"


class FrameFile:
    """A CSV or Parquet file as data frames of polars or pyarrow, some ten thousand rows at a time.

    The first line of a CSV has the names of its columns. A column has the type that all of its cells have, in the whole file:
    dates and times as ISO 8601 writes them; empty cells and ``NA``, ``N/A``, ``n/a``, ``NaN``, ``nan``, ``NULL`` and ``null``
    are missing. (pyarrow takes types from the first megabyte, and refuses cells that do not fit.)

    Args:
        path: whose name ends in ``.csv`` or ``.parquet``.
        separator: of the cells of a CSV; a comma if left out.
        text: columns of a CSV that are text, whatever stands in them.

    Attributes:
        names: of the columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name ends otherwise, or the file has no rows of cells, two columns of one name, or numbers in place of
            names.
        ModuleNotFoundError: neither polars nor pyarrow is installed.
    """

    def __init__(self, path: Path, separator: str = ",", text: Collection[str] = ()) -> None:
        self.path, self._kind = path, path.suffix.lower()
        if self._kind not in FRAMES:
            raise ValueError(f"{path} must end in {' or '.join(FRAMES)} to be read as a table")
        if not path.is_file():
            raise FileNotFoundError(f"no data at {path}" + (": it is a folder" if path.is_dir() else ""))
        if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
            raise ValueError(f"separator must be one sign of ASCII, got {separator!r}")
        self._separator, self._text = separator, text
        self._library = library()
        self._schema: Any = None
        self.names = self._parquet_names() if self._kind == ".parquet" else self._csv_names()

    def chunks(self) -> Iterator[Any]:
        """Frames of all rows, in their order.

        Raises:
            ValueError: the file is damaged, has lines of too many cells, or is empty.
        """
        with self._readable():
            yield from self._by_polars() if self._library == "polars" else self._by_pyarrow()

    def check_names(self, names: Iterable[str], of: str) -> None:
        """Makes sure that the file has columns of these names.

        Args:
            names: that it must have; it may have others.
            of: whose columns they are, for the message.

        Raises:
            ValueError: it lacks one.
        """
        lacking = [name for name in names if name not in self.names]
        if lacking:
            raise ValueError(f"{self.path} must have the columns of {of}, but lacks {lacking[0]!r}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Errors within the block are those of a file that cannot be read."""
        errors: tuple[type[Exception], ...]
        if self._library == "polars":
            errors = (importlib.import_module("polars.exceptions").PolarsError,)
        else:
            errors = (importlib.import_module("pyarrow").ArrowException,)
        try:
            yield
        except (*errors, UnicodeDecodeError, csv.Error) as error:
            why = str(error).partition("\n\n")[0]
            raise ValueError(f"{self.path} cannot be read as {self._kind[1:]}: {' '.join(why.split())}") from error

    def _csv_names(self) -> list[str]:
        with self._readable(), open(self.path, newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file, delimiter=self._separator), [])
        if not names:
            raise ValueError(f"{self.path} must have the names of its columns in the first line, got an empty one")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path} must have columns of different names, got {twice[0]!r} more than once")
        if all(_is_number(name) for name in names):
            some = ", ".join(names[:3])
            raise ValueError(f"{self.path} must have the names of its columns in the first line, got numbers: {some}")
        return names

    def _parquet_names(self) -> list[str]:
        with self._readable():
            if self._library == "polars":
                return list(self._scanned().collect_schema().names())
            from pyarrow.parquet import read_schema

            return list(read_schema(self.path).names)

    def _by_polars(self) -> Iterator[Any]:
        lazy = self._scanned()
        if self._kind != ".parquet":
            self._schema = self._schema or self._types()
            lazy = self._scanned(schema=self._schema)
        names = dict(
            zip(lazy.collect_schema().names(), self.names, strict=True)
        )  # polars leaves doubled quotes in them
        yield from (batch.rename(names) for batch in lazy.collect_batches(chunk_size=_ROWS, maintain_order=True))

    def _types(self) -> Any:
        """The types of a CSV's columns: those of the first rows, where all rows fit them, or else of the whole file."""
        import polars

        known = self._typed(infer_schema_length=_FIRST)
        try:
            first = self._scanned(schema=known).head(_FIRST).collect()
            if not any(column.null_count() == len(first) for column in first):
                for _ in self._scanned(schema=known).collect_batches(chunk_size=_ROWS):
                    pass
                return known
        except polars.exceptions.ComputeError:
            pass  # a later cell is of another type
        return self._typed(infer_schema_length=None)

    def _typed(self, **options: Any) -> dict[str, Any]:
        """Types by the names that polars reads, of columns in their order."""
        import polars

        found = self._scanned(**options).collect_schema()
        texts = [name in self._text for name in self.names]
        return {
            name: polars.String if text else dtype for text, (name, dtype) in zip(texts, found.items(), strict=True)
        }

    def _scanned(self, **options: Any) -> Any:
        import polars

        if self._kind == ".parquet":
            return polars.scan_parquet(self.path, glob=False)
        return polars.scan_csv(
            self.path, separator=self._separator, try_parse_dates=True, glob=False, null_values=_NULLS, **options
        )

    def _by_pyarrow(self) -> Iterator[Any]:
        import pyarrow

        if self._kind == ".parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(self.path) as file:
                yield from (pyarrow.Table.from_batches([batch]) for batch in file.iter_batches(_ROWS))
            return
        from pyarrow import csv as arrow_csv

        known = {name: pyarrow.string() for name in self.names if name in self._text}
        nulls = arrow_csv.ConvertOptions(
            column_types=known, null_values=["", *_NULLS], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        parsing = arrow_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True)
        with arrow_csv.open_csv(self.path, parse_options=parsing, convert_options=nulls) as reader:
            yield from (pyarrow.Table.from_batches([batch]) for batch in reader)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def library() -> Literal["polars", "pyarrow"]:
    """The one that reads files of tables here.

    Raises:
        ModuleNotFoundError: there is none.
    """
    if _has("polars"):
        return "polars"
    if _has("pyarrow"):
        return "pyarrow"
    raise ModuleNotFoundError(f"files of tables need polars or pyarrow: {_EXTRA}")


def write_frames(path: Path | IO[str], frames: Iterable[Any]) -> int:
    """Write frames one after another as they come, so that memory holds one at a time; the file appears when it is complete.

    Args:
        path: a name that ends in ``.csv`` or ``.parquet``; or a file of text that is open, which gets CSV.
        frames: of pandas, polars or pyarrow, one or more with the same columns; what narwhals takes.

    Returns:
        The number of rows.

    Raises:
        OSError: the file cannot be written.
        ValueError: the name ends otherwise.
        ModuleNotFoundError: what writes such files is not installed.
    """
    import narwhals

    wide = (narwhals.from_native(frame, eager_only=True) for frame in frames)
    if not isinstance(path, Path):
        return _write_text(path, wide)
    kind = path.suffix.lower()
    if kind not in FRAMES:
        raise ValueError(f"{path} must end in {' or '.join(FRAMES)} to be written as a table")
    with written_whole(path) as partial:
        if kind == ".parquet":
            return _write_parquet(partial, wide)
        with open(partial, "w", newline="", encoding="utf-8") as file:
            return _write_text(file, wide)


def _write_text(file: IO[str], frames: Iterator[Any]) -> int:
    rows = 0
    for frame in frames:
        header = frame.head(0).write_csv(None) if rows else ""
        file.write(frame.write_csv(None)[len(header) :])
        rows += len(frame)
    return rows


def _write_parquet(partial: Path, frames: Iterator[Any]) -> int:
    rows, first = 0, next(frames, None)
    if first is None:
        raise ValueError("frames must be at least one, whose columns the file has; got none")
    if _has("pyarrow"):
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(partial, first.to_arrow().schema) as writer:
            for frame in chain([first], frames):
                writer.write_table(frame.to_arrow().cast(writer.schema))
                rows += len(frame)
        return rows
    if first.implementation.value != "polars":
        raise ModuleNotFoundError(
            f"a .parquet file of a {first.implementation.value} table needs pyarrow: pip install pyarrow"
        )
    import polars

    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=f"{partial.name}.") as folder:  # polars joins files
        parts = []
        for number, frame in enumerate(chain([first], frames)):
            parts.append(Path(folder, f"{number}.parquet"))
            frame.write_parquet(parts[-1])
            rows += len(frame)
        polars.scan_parquet(parts, glob=False).sink_parquet(partial)
    return rows


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
