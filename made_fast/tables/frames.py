"""Data frames to cells and back. Frames go through narwhals, which speaks pandas, polars and pyarrow alike."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from made_fast.arguments import shown
from made_fast.tables.cells import MOMENTS, NUMBERS, Array, Cells, moment_of, moments_of

__all__ = ["Form", "drawn_dtype", "read", "write"]

_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_LOWER = tuple(map(str.lower, _INTEGERS))  # the names that numpy has
_NAMES = (*_INTEGERS, "Float32", "Float64", "Boolean", "String", "Categorical", "Date")  # dtypes without arguments
_MOST = 1e150  # of real numbers: their squares are finite
_NATIVE = re.compile(r"[\w\[\], /:+-]{1,80}")  # the names of pandas' dtypes and numpy's


def _narwhals() -> Any:
    try:
        import narwhals
    except ImportError:
        raise ImportError("data frames need narwhals: pip install 'made_fast[tables]'") from None
    return narwhals


@dataclass(frozen=True)
class Form:
    """What a frame looks like from outside: its library, and the dtype of each column, as JSON can hold them.

    Attributes:
        library: the name that narwhals gives it; ``"mapping"`` for one from names to arrays.
        dtypes: by name of the column.
    """

    library: str
    dtypes: Mapping[str, Mapping[str, Any]]


def read(frame: Any) -> tuple[dict[str, Cells], Form]:
    """The columns of a frame, and its form.

    Args:
        frame: of pandas, polars or pyarrow; or a mapping from names to arrays or lists of equal length.

    Raises:
        ValueError: it is no such thing, two columns have one name, or a column holds what no kind takes.
        ImportError: narwhals is not installed.
    """
    if isinstance(frame, Mapping):
        arrays = {name: _array_of(str(name), values) for name, values in frame.items()}
        _check_names(list(arrays))
        if len({len(each) for each in arrays.values()}) > 1:
            raise ValueError(f"frame must have columns of equal length, got {[len(each) for each in arrays.values()]}")
        cells = {name: _cells_of_array(name, values) for name, values in arrays.items()}
        dtypes = {
            name: {"native": "str" if values.dtype.kind == "U" else str(values.dtype)}
            for name, values in arrays.items()
        }
        return cells, Form("mapping", dtypes)
    nw = _narwhals()
    try:
        wide = nw.from_native(frame, eager_only=True)
        _check_names(wide.columns)
    except TypeError:
        raise ValueError(
            f"frame must be a data frame of pandas, polars or pyarrow, or a mapping from names to arrays, got {shown(frame)}"
        ) from None
    except nw.exceptions.DuplicateError as error:
        raise ValueError(f"frame must have columns of different names: {' '.join(str(error).split())}") from None
    library = wide.implementation.value
    cells, dtypes = {}, {}
    for name in wide.columns:
        cells[name] = _cells_of(name, wide[name])
        dtypes[name] = _pandas_dtype(name, wide[name]) if library == "pandas" else _dtype(wide[name].dtype)
    return cells, Form(library, dtypes)


def _check_names(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"frame must have columns with names that are text, got {shown(name)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"frame must have columns of different names, got {shown(twice[0])} more than once")


def _cells_of(name: str, series: Any) -> Cells:
    """The cells of a series of narwhals."""
    nw, dtype = _narwhals(), series.dtype
    if dtype == nw.Object:
        return _cells_of_array(name, np.array(series.to_list(), dtype=object))
    present = ~np.asarray(series.is_null().to_numpy(), dtype=bool)
    if dtype.is_decimal():
        series, dtype = series.cast(nw.Float64), nw.Float64()
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        values = np.empty(len(series), dtype=object)
        values[:] = series.to_list()
        categories = tuple(dtype.categories) if isinstance(dtype, nw.Enum) else None
        if all(type(each) is str for each in values[present]):
            return Cells(values, present, "text", categories)
        found = _cells_of_array(name, values)  # categories of pandas may be numbers
        return Cells(found.values, found.present, found.of, categories)
    if dtype == nw.Boolean:
        return Cells(series.fill_null(False).to_numpy().astype(bool), present, "flag")
    if str(dtype) in _INTEGERS:
        return _whole_cells(name, series, present)
    if dtype.is_float():
        short, series = dtype == nw.Float32, series.cast(nw.Float64)
        values = series.to_numpy() if present.all() else series.fill_null(0.0).to_numpy()
        return _real_cells(name, values.astype(np.float32) if short else values, present)
    if dtype in (nw.Date, nw.Datetime) or _zone_of(name, series):
        return _moment_cells(name, series, present)
    raise ValueError(
        f"column {name!r} must hold text, flags, numbers, dates or times, got {dtype}: leave it out or convert it"
    )


def _whole_cells(name: str, series: Any, present: Array) -> Cells:
    values = series.fill_null(0).to_numpy()
    if values.dtype.kind == "u" and len(values) and values.max() >= 2**63:
        raise ValueError(f"column {name!r} must hold whole numbers below 2**63, got {values.max()}")
    limits = np.iinfo(str(series.dtype).lower())
    bounds = (max(int(limits.min), NUMBERS[0]), min(int(limits.max), NUMBERS[1]))
    return Cells(values.astype(np.int64), present, "number", limits=bounds)


def _real_cells(name: str, values: Array, present: Array) -> Cells:
    values = _shortest(values) if values.dtype.itemsize < 8 else np.asarray(values, dtype=np.float64)
    present = present & ~np.isnan(values)
    wrong = present & ~(np.abs(values) < _MOST)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"column {name!r} must be finite, below {_MOST:g}, got {values[row]} in row {row}")
    return Cells(np.where(present, values, 0.0), present, "number")


def _shortest(values: Array) -> Array:
    """Floats of 32 or 16 bits (N,) as the shortest decimals that are rounded to them, fp64: 0.1 is 0.1."""
    known, places = np.unique(values, return_inverse=True)
    return known.astype(str).astype(np.float64)[places]


def _moment_cells(name: str, series: Any, present: Array) -> Cells:
    nw, zone = _narwhals(), _zone_of(name, series)
    if zone and series.dtype == nw.Unknown:  # narwhals knows few names of pandas' zones
        series = nw.from_native(series.to_native().dt.tz_convert("UTC"), series_only=True)
    if getattr(series.dtype, "time_unit", "us") == "ns":
        nanoseconds = series.dt.timestamp("ns").fill_null(0).to_numpy()
        if (nanoseconds[present] % 1000).any():
            raise ValueError(f"column {name!r} must not be finer than microseconds, got nanoseconds: round it first")
    if series.dtype == nw.Date:
        series = series.cast(nw.Datetime("us"))
    values, (first, last) = series.dt.timestamp("us").fill_null(0).to_numpy().astype(np.int64), moments_of(zone)
    wrong = present & ((values < first) | (values > last))
    if wrong.any():
        found = values[wrong].astype("datetime64[us]")[0]
        where = f", less a day in a time zone such as {zone}" if zone else ""
        raise ValueError(
            f"column {name!r} must lie in the years 1 to 9999{where}, got {found} in row {int(np.flatnonzero(wrong)[0])}"
        )
    return Cells(values, present, "moment", limits=(first, last), zone=zone)


def _zone_of(name: str, series: Any) -> str | None:
    """The time zone of a series, by the name that zoneinfo has for it; None of what has no zone."""
    zone = getattr(series.dtype, "time_zone", None) or getattr(getattr(series.to_native(), "dtype", None), "tz", None)
    try:
        return None if zone is None else ZoneInfo(str(zone)).key
    except (KeyError, OSError, ValueError):
        raise ValueError(
            f"column {name!r} must have a time zone with a name, such as 'Europe/Rome', got {str(zone)!r}: convert it first"
        ) from None


def _array_of(name: str, values: Any) -> Array:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US" and not isinstance(values, np.ndarray):  # numbers among them would have become text
            array = np.array(list(values), dtype=object)
    except (TypeError, ValueError):
        array = np.zeros(())
    if array.ndim != 1:
        raise ValueError(f"column {name!r} must be an array or a list of one dimension, got {shown(values)}")
    return array


def _cells_of_array(name: str, values: Array) -> Cells:
    """The cells of an array of numpy, of any type."""
    kind, everywhere = values.dtype.kind, np.ones(len(values), dtype=bool)
    if kind == "b":
        return Cells(values, everywhere, "flag")
    if kind in "iu":
        if len(values) and values.max() >= 2**63:
            raise ValueError(f"column {name!r} must hold whole numbers below 2**63, got {values.max()}")
        return Cells(values.astype(np.int64), everywhere, "number")
    if kind == "f":
        return _real_cells(name, values, everywhere)
    if kind == "M":
        moments = values.astype("datetime64[us]")
        return Cells(moments.astype(np.int64), ~np.isnat(moments), "moment", limits=MOMENTS)
    if kind == "U":
        return Cells(values.astype(object), everywhere, "text")
    if kind != "O":
        raise ValueError(f"column {name!r} must hold text, flags, numbers, dates or times, got {values.dtype}")
    return _cells_of_objects(name, values)


def _is_missing(value: object) -> bool:
    """Whether it is None, nan, or what pandas has in their place."""
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return value is None or (not isinstance(value, str) and str(value) in ("<NA>", "NaT"))


def _cells_of_objects(name: str, values: Array) -> Cells:
    present = np.array([not _is_missing(each) for each in values], dtype=bool)
    types = sorted({type(each).__name__ for each in values[present]})
    filled = values[present]
    if all(isinstance(each, str) for each in filled):
        return Cells(values, present, "text")
    if all(isinstance(each, (bool, np.bool_)) for each in filled):
        return Cells(np.where(present, values, False).astype(bool), present, "flag")
    numbers = [not isinstance(each, (bool, np.bool_)) and isinstance(each, (int, float, np.number)) for each in filled]
    if all(numbers):
        whole = all(isinstance(each, (int, np.integer)) and abs(int(each)) < 2**63 for each in filled)
        plain = np.where(present, values, 0)
        return (
            Cells(plain.astype(np.int64), present, "number")
            if whole
            else _real_cells(name, plain.astype(float), present)
        )
    if all(isinstance(each, (datetime.date, np.datetime64)) for each in filled):
        wish = f"column {name!r} must hold dates"
        moments = [moment_of(each, None, wish) if here else 0 for each, here in zip(values, present, strict=True)]
        return Cells(np.array(moments, dtype=np.int64), present, "moment", limits=MOMENTS)
    raise ValueError(
        f"column {name!r} must hold text, flags, numbers or dates, all of one type, got {' and '.join(types)}"
    )


def _dtype(dtype: Any) -> dict[str, Any]:
    """A dtype of narwhals as JSON can hold it."""
    nw = _narwhals()
    if isinstance(dtype, nw.Datetime):
        return {"name": "Datetime", "unit": dtype.time_unit, "zone": dtype.time_zone}
    if isinstance(dtype, nw.Enum):
        return {"name": "Enum", "categories": list(dtype.categories)}
    if isinstance(dtype, nw.Decimal):
        return {"name": "Decimal", "precision": dtype.precision, "scale": dtype.scale}
    return {"name": str(dtype)}


def _pandas_dtype(name: str, series: Any) -> dict[str, Any]:
    dtype = series.to_native().dtype
    if str(dtype) != "category":
        dates = str(dtype) == "object" and series.dtype == _narwhals().Object
        return {"native": str(dtype), **({"objects": True} if dates else {})}
    categories = dtype.categories.tolist()
    if not all(type(each) in (str, int, float, bool) for each in categories):
        raise ValueError(f"column {name!r} must have categories that are text or numbers, got {shown(categories[0])}")
    return {"native": "category", "categories": categories, "ordered": bool(dtype.ordered)}


def drawn_dtype(described: Mapping[str, Any], *, missing: bool, real: bool, values: tuple[Any, ...]) -> dict[str, Any]:
    """The dtype that holds what a column draws: that of the frame, or one like it.

    Args:
        described: the dtype of the frame.
        missing: whether cells may be missing: numpy's flags and whole numbers become pandas' nullable ones.
        real: whether numbers are drawn with fractions: whole ones become floats, dates become times.
        values: those of categories; what is not in the dtype is added to it.
    """
    made, key = dict(described), "native" if "native" in described else "name"
    if "categories" in made:
        made["categories"] = list(dict.fromkeys([*made["categories"], *values]))
    plain, _, backed = str(made[key]).partition("[")
    if real and plain in _INTEGERS:
        made[key] = "Float64"
    elif real and plain.lower() in _LOWER:
        made[key] = "double[pyarrow]" if backed else "float64"
    elif real and (made[key] in ("Date", "datetime64[D]") or "objects" in made):
        made = {"name": "Datetime", "unit": "us", "zone": None, "native": "datetime64[us]"}
    elif missing and plain == "bool" and not backed:
        made[key] = "boolean"
    elif missing and plain in _LOWER and not backed:
        made[key] = _INTEGERS[_LOWER.index(plain)]
    return made


def write(columns: Mapping[str, Cells], form: Form) -> Any:
    """A frame of these columns, of the library and with the dtypes of a form.

    Raises:
        ImportError: the library is not installed.
        ValueError: the form describes a dtype that there is not.
    """
    for name, cells in columns.items():
        _check_categories(name, cells, form.dtypes[name])
    if form.library == "mapping":
        return {name: _to_array(cells, form.dtypes[name]) for name, cells in columns.items()}
    if form.library == "pandas":
        import pandas

        series = {name: _to_pandas(cells, form.dtypes[name]) for name, cells in columns.items()}
        return pandas.DataFrame(series, columns=list(series))
    first, *others = [_to_series(name, cells, form) for name, cells in columns.items()]
    return first.to_frame().with_columns(*others).to_native()


def _check_categories(name: str, cells: Cells, described: Mapping[str, Any]) -> None:
    """Raises ValueError where a cell is none of the categories of its dtype: one that was given, for a reserved category."""
    if "categories" in described:
        left = set(cells.values[cells.present].tolist()).difference(described["categories"])
        if left:
            raise ValueError(f"column {name!r} must hold categories of its dtype, got {shown(sorted(left)[0])}")


def _listed(cells: Cells) -> list[Any]:
    """Python's objects, None where missing."""
    values = cells.values.astype(object)
    values[~cells.present] = None
    return list(values)


def _moments(cells: Cells) -> Array:
    moments = cells.values.astype("datetime64[us]")
    moments[~cells.present] = np.datetime64("NaT")
    return moments


def _native(described: Mapping[str, Any], dtype: Callable[[str], object]) -> str:
    """The name of a dtype of numpy or pandas, where ``dtype`` finds one of that name."""
    native = described.get("native")
    try:
        if isinstance(native, str) and _NATIVE.fullmatch(native):
            dtype(native)
            return native
    except TypeError:
        pass
    raise ValueError(f"dtype must be the name of one, got {shown(native)}")


def _to_array(cells: Cells, described: Mapping[str, Any]) -> Array:
    native = _native(described, np.dtype)
    if cells.of == "moment":
        return _moments(cells) if native == "object" else _moments(cells).astype(native)
    if cells.present.all():
        return np.array(cells.values.tolist(), dtype=None if native == "str" else native)
    if native.startswith("float"):
        return np.where(cells.present, cells.values, np.nan).astype(native)
    listed = np.empty(len(cells), dtype=object)
    listed[:] = _listed(cells)
    return listed


def _to_pandas(cells: Cells, described: Mapping[str, Any]) -> Any:
    import pandas

    native = _native(described, pandas.api.types.pandas_dtype)
    if cells.of == "moment":
        moments = pandas.Series(_moments(cells))
        if described.get("objects"):
            return moments.dt.date.where(moments.notna(), None)
        if cells.zone:
            moments = moments.dt.tz_localize("UTC").dt.tz_convert(cells.zone)
        return moments.astype(native)
    listed = pandas.Series(_listed(cells), dtype=object)
    if native == "category":
        return listed.astype(pandas.CategoricalDtype(described["categories"], described["ordered"]))
    return listed.astype(native)


def _to_series(name: str, cells: Cells, form: Form) -> Any:
    nw, described = _narwhals(), form.dtypes[name]
    kind = described.get("name")
    if kind == "Datetime":
        series = nw.new_series(name, _moments(cells), nw.Datetime("us"), backend=form.library)
        if cells.zone:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(cells.zone)
        return series.cast(nw.Datetime(described["unit"], described["zone"]))
    if kind == "Date":
        return nw.new_series(name, _moments(cells), nw.Datetime("us"), backend=form.library).cast(nw.Date)
    if kind == "Decimal":
        target = nw.Decimal(described["precision"], described["scale"])
        return nw.new_series(name, _listed(cells), nw.Float64, backend=form.library).cast(target)
    if kind == "Enum":
        return nw.new_series(name, _listed(cells), nw.Enum(described["categories"]), backend=form.library)
    if kind not in _NAMES:
        raise ValueError(f"dtype must be one of {', '.join(_NAMES)}, Datetime, Decimal or Enum, got {shown(kind)}")
    return nw.new_series(name, _listed(cells), getattr(nw, kind), backend=form.library)
