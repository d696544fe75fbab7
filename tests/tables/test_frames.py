"""Frames of each library come back with the same names and dtypes; what is given comes back as it was."""

import datetime
from typing import Any

import numpy as np
import pytest
from table_cases import table_of

from made_fast.tables import Column, Schema
from made_fast.tables.frames import read, write

ROWS = 240
LIBRARIES = ["pandas", "polars", "pyarrow"]


def columns() -> dict[str, list[Any]]:
    """Python's objects, holes in some."""
    rng, start = np.random.default_rng(1), datetime.datetime(2024, 1, 1)
    holes = rng.random(ROWS) < 0.2
    moments = [start + datetime.timedelta(seconds=int(each)) for each in rng.integers(0, 10**7, ROWS)]
    real = [None if hole else float(each) for hole, each in zip(holes, rng.normal(5, 2, ROWS), strict=True)]
    return {
        "text": [None if hole else str(each) for hole, each in zip(~holes, rng.choice(["a", "b"], ROWS), strict=True)],
        "flag": rng.choice([True, False], ROWS).tolist(),
        "small": rng.integers(0, 9, ROWS).tolist(),
        "whole": [None if hole else int(each) for hole, each in zip(holes, rng.integers(-500, 500, ROWS), strict=True)],
        "real": real,
        "day": [None if hole else moment.date() for hole, moment in zip(holes, moments, strict=True)],
        "moment": [None if hole else moment for hole, moment in zip(holes, moments, strict=True)],
    }


def pandas_frame() -> Any:
    pandas = pytest.importorskip("pandas")
    data = columns()
    moments = pandas.Series(data["moment"])
    return pandas.DataFrame(
        {
            "text": pandas.Series(data["text"], dtype="str"),
            "object": pandas.Series(data["text"], dtype=object),
            "category": pandas.Categorical(data["text"], categories=["b", "a", "unused"]),
            "ordered": pandas.Categorical(data["text"], categories=["b", "a"], ordered=True),
            "flag": data["flag"],
            "holes": pandas.array([None, *data["flag"][1:]], dtype="boolean"),
            "small": pandas.Series(data["small"], dtype="int8"),
            "whole": pandas.array(data["whole"], dtype="Int64"),
            "real": pandas.Series(data["real"], dtype="float32"),
            "day": data["day"],
            "moment": moments,
            "zone": moments.dt.tz_localize("UTC").dt.tz_convert("Europe/Rome"),
            "nanoseconds": moments.astype("datetime64[ns]"),
        }
    )


def polars_frame() -> Any:
    polars = pytest.importorskip("polars")
    data = columns()
    utc = polars.Series(data["moment"], dtype=polars.Datetime("us")).dt.replace_time_zone("UTC")
    return polars.DataFrame(
        {
            "text": data["text"],
            "category": polars.Series(data["text"], dtype=polars.Categorical),
            "enum": polars.Series(data["text"], dtype=polars.Enum(["b", "a"])),
            "flag": data["flag"],
            "small": polars.Series(data["small"], dtype=polars.UInt8),
            "whole": polars.Series(data["whole"], dtype=polars.Int16),
            "real": data["real"],
            "decimal": polars.Series([round(each or 0, 2) for each in data["real"]]).cast(polars.Decimal(10, 2)),
            "day": data["day"],
            "moment": polars.Series(data["moment"], dtype=polars.Datetime("ms")),
            "zone": utc.dt.convert_time_zone("Asia/Tokyo"),
        }
    )


def pyarrow_frame() -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table(columns())


FRAMES = {"pandas": pandas_frame, "polars": polars_frame, "pyarrow": pyarrow_frame}


def schema_of(frame: Any) -> Any:
    return frame.schema if hasattr(frame, "schema") else dict(frame.dtypes)


@pytest.mark.parametrize("library", LIBRARIES)
def test_samples_have_the_names_and_the_dtypes_of_the_frame(library: str) -> None:
    frame = FRAMES[library]()
    table = table_of(frame, strength=1.0)
    drawn = table.sample(50, seed=0)
    assert type(drawn) is type(frame) and len(drawn) == 50
    assert schema_of(drawn) == schema_of(frame)
    assert table.log_prob(drawn).isfinite().all()
    restored = Schema.from_json(table.schema.to_json())
    assert restored == table.schema
    assert schema_of(write(restored.decode(table.model.sample(5, seed=0)), restored.form)) == schema_of(frame)


@pytest.mark.parametrize("library", LIBRARIES)
def test_known_cells_come_back_as_they_were(library: str) -> None:
    frame = FRAMES[library]()
    table = table_of(frame, strength=1.0)
    with pytest.warns(UserWarning, match="raise candidates"):
        filled = table.sample(given=frame[30:80] if library != "pyarrow" else frame.slice(30, 50), seed=0, candidates=6)
    assert schema_of(filled) == schema_of(frame)
    before, _ = read(frame)
    after, _ = read(filled)
    for name, cells in before.items():
        here = cells.present[30:80]
        assert after[name].present.all(), name
        assert (after[name].values[here] == cells.values[30:80][here]).all(), name
    if library == "pandas":
        assert filled.index.tolist() == list(range(30, 80))


def test_mappings_of_arrays_are_frames_too() -> None:
    data = {
        "x": np.random.default_rng(0).normal(size=100).astype(np.float32),
        "day": np.array(["2024-01-01", "2024-02-01", "2024-05-07", "NaT"] * 25, dtype="datetime64[D]"),
        "text": np.array(["a", "b"] * 50),
    }
    drawn = table_of(data).sample(40, seed=0)
    assert {name: each.dtype.kind for name, each in drawn.items()} == {"x": "f", "day": "M", "text": "U"}
    assert drawn["x"].dtype == np.float32 and drawn["day"].dtype == data["day"].dtype


@pytest.mark.parametrize("library", LIBRARIES)
def test_whole_numbers_that_are_taken_for_real_ones_are_drawn_as_such(library: str) -> None:
    frame = FRAMES[library]()
    table = table_of(frame, {"small": "real", "whole": Column("real", scaling="quantiles")})
    drawn = table.sample(200, seed=0)
    values = table.schema.decode(table._draws().sample(200, seed=0))
    for name in ("small", "whole"):
        cells = read(drawn)[0][name]
        assert (cells.values == values[name].values)[cells.present].all() and "loat" in str(cells.values.dtype)
        assert (cells.present == values[name].present).all() and (cells.values % 1 != 0).any()
    assert table.log_prob(drawn).isfinite().all()


def test_kinds_are_decided_by_the_cells() -> None:
    rng = np.random.default_rng(0)
    data = {
        "text": rng.choice(["a", "b"], 500),
        "bit": rng.integers(0, 2, 500),
        "few": rng.integers(0, 9, 500) / 2,
        "levels": rng.integers(0, 300, 500),
        "wide": rng.integers(0, 10**6, 500),
        "real": rng.normal(size=500),
        "day": np.datetime64("2024-01-01") + rng.integers(0, 400, 500),
        "moment": np.datetime64("2024-01-01") + rng.integers(0, 10**12, 500).astype("timedelta64[us]"),
    }
    kinds = ["category", "bit", "ordered", "integer", "integer", "real", "datetime", "datetime"]
    assert [each.kind for each in Schema.of(data).columns] == kinds
    classes = ["Categories", "Categories", "Categories", "Levels", "Numbers", "Numbers", "Levels", "Numbers"]
    assert [type(each).__name__ for each in Schema.of(data).columns] == classes
    assert Schema.of(data).rounded == [4]
    wished = Schema.of(data, {"few": "real", "levels": Column("real", scaling="quantiles"), "bit": "category"})
    assert [each.kind for each in wished.columns] == ["category", "category", "real", "real", *kinds[4:]]


def test_midnights_of_a_time_zone_are_whole_days() -> None:
    """Rome's are at 22 or 23 o'clock UTC, and one of these days has 23 hours."""
    pandas = pytest.importorskip("pandas")
    days = pandas.Series(pandas.date_range("2024-03-01", periods=60, tz="Europe/Rome").repeat(4))
    table = table_of(pandas.DataFrame({"day": days, "x": np.arange(240) % 2}), strength=1.0)
    (column, _) = table.schema.columns
    assert (column.unit, column.zone, str(column)) == ("day", "Europe/Rome", "whole days 2024-02-25 .. 2024-05-04")
    drawn = table.sample(500, seed=0)
    assert drawn.day.dtype == days.dtype and (drawn.day == drawn.day.dt.normalize()).all()
    asked = [f"day = '{day.date()}'" for day in days[::4]] + ["day < '2024-03-01'", "day > '2024-04-29'"]
    answer = table.probability(asked, 4000, seed=0)
    assert float(answer.value.sum()) == pytest.approx(1, abs=0.02)
    shares = [(drawn.day.dt.tz_localize(None) == day.tz_localize(None)).mean() for day in days[::4]]
    assert np.abs(answer.value.numpy()[:60] - shares).max() < 0.05
    other = table_of(pandas.DataFrame({"day": days + pandas.Timedelta(hours=3), "x": np.arange(240) % 2}))
    assert other.schema.columns[0].unit == "second"
    with pytest.raises(ValueError, match="column 'day' must hold whole days"):
        table.log_prob(pandas.DataFrame({"day": days + pandas.Timedelta(hours=3), "x": np.arange(240) % 2}))


def test_reserved_categories_stand_for_all_that_was_not_seen() -> None:
    data = {"city": np.array(["Rome"] * 50 + ["Oslo"] * 48 + ["Lima", "Bonn"], dtype=object), "x": np.arange(100) % 2}
    table = table_of(data, {"city": Column(other="elsewhere")})
    unseen = {"city": np.array(["Paris", "Bonn", "elsewhere"], dtype=object), "x": np.zeros(3, dtype=int)}
    assert len(set(table.log_prob(unseen).tolist())) == 1
    assert set(table.sample(300, seed=0)["city"]) == {"Rome", "Oslo", "elsewhere"}
    with pytest.raises(
        ValueError, match="column 'city' has a value that was not seen where it was fitted, 'Paris' in row 0"
    ):
        table_of(data).log_prob(unseen)


def test_scales_are_inverted_and_their_slope_is_their_derivative() -> None:
    values = np.exp(np.random.default_rng(0).normal(size=2000) * 2)
    for scaling in ("standard", "quantiles"):
        schema = Schema.of({"x": values}, {"x": Column("real", scaling=scaling)})
        scale = schema.columns[0].scale  # type: ignore[attr-defined]
        points = np.array([-3.0, 0.01, 0.5, 1.7, 40.0, 1e5])
        np.testing.assert_allclose(scale.back(scale.to(points)), points, rtol=1e-9, atol=1e-9)
        numeric = (scale.to(points + 1e-6) - scale.to(points - 1e-6)) / 2e-6
        np.testing.assert_allclose(scale.slope(points), numeric, rtol=1e-4)
