"""What ordinary frames have at their edges: dtypes without holes, few floats, time zones, wide numbers."""

import datetime
from typing import Any

import numpy as np
import pytest
import torch
from table_cases import table_of

from made_fast.tables import Column
from made_fast.tables.choosing import LARGEST, WIDEST

GOOD = np.arange(600) % 3


@pytest.mark.parametrize(("plain", "nullable"), [("bool", "boolean"), ("int64", "Int64"), ("uint8", "UInt8")])
def test_numpys_dtypes_become_nullable_where_cells_may_be_missing(plain: str, nullable: str) -> None:
    pandas = pytest.importorskip("pandas")
    values = np.arange(600) % (2 if plain == "bool" else 9)
    table = table_of(pandas.DataFrame({"c": values.astype(plain), "z": GOOD}), {"c": Column(missing=True)})
    drawn = table.sample(4000, seed=0)
    assert str(drawn.c.dtype) == nullable and str(drawn.z.dtype) == "int64"
    answer = table.probability("c is null", 4000, seed=0)
    assert 0.01 < float(answer.value) < 0.99
    assert drawn.c.isna().mean() == pytest.approx(float(answer.value), abs=0.05)
    assert table.log_prob(drawn).isfinite().all()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_reserved_category_is_one_of_the_dtype_too(library: str) -> None:
    module = pytest.importorskip(library)
    letters, values = list("abcdef"), list("abcdef") * 100
    series = module.Categorical(values) if library == "pandas" else module.Series(values).cast(module.Enum(letters))
    frame = module.DataFrame({"c": series, "z": GOOD})
    table = table_of(frame, {"c": Column(values=["a"], other="rest")})
    drawn = table.sample(1000, seed=0)
    categories = drawn["c"].cat.categories if library == "pandas" else drawn["c"].dtype.categories
    assert list(categories) == [*letters, "rest"]
    share = (drawn["c"] == "rest").mean()
    assert share == pytest.approx(float(table.probability("c = 'rest'", 2000, seed=0).value), abs=0.08)
    assert share + (drawn["c"] == "a").mean() == 1


def test_named_values_beyond_the_dtype() -> None:
    pandas: Any = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"c": pandas.Categorical(list("ab") * 300), "n": GOOD})
    table = table_of(frame, {"c": Column(values=list("abc")), "n": Column(values=[0, 1, 2, 2.5])}, strength=1.0)
    drawn = table.sample(1000, seed=0)
    assert set(drawn.c) == {"a", "b", "c"} and set(drawn.n) == {0, 1, 2, 2.5}
    reserved = table_of(frame, {"c": Column(values=["a"], other="rest")})
    with pytest.raises(ValueError, match="column 'c' must hold categories of its dtype, got 'z'"):
        reserved.sample(given=pandas.DataFrame({"c": ["z"]}), seed=0)
    small = frame.astype({"n": "uint8"})
    with pytest.raises(ValueError, match=r"low and high must lie in the range of the dtype, 0 .. 255, got -3 and"):
        table_of(small, {"n": Column("integer", low=-3)})


def test_queries_of_whole_numbers_that_are_taken_for_real_ones_agree_with_samples() -> None:
    pandas: Any = pytest.importorskip("pandas")
    counts = np.random.default_rng(0).poisson(4, 2000)
    table = table_of(pandas.DataFrame({"z": np.arange(2000) % 3, "x": counts}), {"x": "real"})
    drawn = table.sample(20_000, seed=0)
    assert drawn.x.dtype == np.float64
    assert (drawn.x <= 4).mean() == pytest.approx(float(table.probability("x <= 4", 4000, seed=0).value), abs=0.03)


@pytest.mark.parametrize("library", ["mapping", "pandas", "polars"])
def test_floats_of_32_bits_are_the_decimals_that_one_writes(library: str) -> None:
    values = np.tile(np.array([0.1, 0.2, 0.7], dtype=np.float32), 200)
    frame: Any = {"c": values, "z": GOOD}
    table = table_of(frame if library == "mapping" else pytest.importorskip(library).DataFrame(frame))
    share = float(table.probability("c = 0.1", seed=0).value)
    assert 0 < share < 1
    for query in (
        "c <= 0.1",
        "c in (0.1)",
        {"c": 0.1},
        {"c": np.float32(0.1)},
        {"c": values[:1]},
        {"c": torch.tensor(0.1)},
    ):
        assert float(table.probability(query, seed=0).value) == share
    assert float(table.probability("c != 0.1", seed=0).value) == pytest.approx(1 - share, abs=1e-6)
    drawn = table.sample(300, seed=0)["c"]
    drawn = drawn if library == "mapping" else drawn.to_numpy()
    assert drawn.dtype == np.float32 and set(drawn.tolist()) <= set(values.tolist())
    with pytest.raises(ValueError, match=r"query must name values of column 'c', 0.1, 0.2, 0.7; got 0.15"):
        table.probability("c = 0.15")


def test_no_rows_have_no_log_probabilities() -> None:
    frame = {"x": np.random.default_rng(0).normal(size=600), "z": GOOD}
    found = table_of(frame).log_prob({name: values[:0] for name, values in frame.items()})
    assert found.shape == (0,) and found.dtype == torch.float64


def test_what_is_sure_has_probability_1_at_most() -> None:
    rng, found = np.random.default_rng(0), []
    frame = {"x": rng.normal(size=600), "k": rng.integers(0, 50, 600)}
    for seed in range(6):
        table = table_of(frame, seed=seed)
        high = table.schema.columns[1].high  # type: ignore[attr-defined]
        found.append(float(table.model.estimate_probability({1: set(range(high + 1))}, seed=0).value))
        answer = float(table.probability("k is not null", seed=0).value)
        assert answer <= 1 and answer == pytest.approx(1, abs=1e-5)
    assert max(found) > 1  # sums of fp32


@pytest.mark.parametrize("zone", ["America/New_York", "Etc/GMT+5", "America/Argentina/Buenos_Aires"])
def test_time_zones_of_any_name(zone: str) -> None:
    pandas: Any = pytest.importorskip("pandas")
    days = pandas.Series(pandas.date_range("2024-01-01", periods=600, tz=zone))
    days[::7] = pandas.NaT
    table = table_of(pandas.DataFrame({"t": days, "z": GOOD}), strength=1.0)
    assert (table.schema.columns[0].unit, table.schema.columns[0].zone) == ("day", zone)
    drawn = table.sample(300, seed=0)
    assert drawn.t.dtype == days.dtype and (drawn.t.dropna() == drawn.t.dropna().dt.normalize()).all()
    assert table.log_prob(drawn).isfinite().all()


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_zones_without_a_name_are_refused(library: str) -> None:
    frame: Any = pytest.importorskip("pandas").DataFrame(
        {"t": pytest.importorskip("pandas").date_range("2024-01-01", periods=600, tz="+05:00")}
    )
    frame = frame if library == "pandas" else pytest.importorskip("pyarrow").Table.from_pandas(frame)
    with pytest.raises(ValueError, match=r"column 't' must have a time zone with a name, .* got .*\+05:00"):
        table_of(frame)


def test_midnights_of_another_zone_are_seconds() -> None:
    pandas: Any = pytest.importorskip("pandas")
    moments = pandas.Series(pandas.date_range("2024-01-01", periods=600, tz="UTC")).dt.tz_convert("Europe/Rome")
    frame = pandas.DataFrame({"t": moments, "z": GOOD})
    for kind, name in ((None, "datetime"), ("real", "real")):
        table = table_of(frame, {"t": kind} if kind else None)
        assert (table.schema.columns[0].unit, table.schema.columns[0].kind) == ("second", name)
        assert table.log_prob(frame).isfinite().all()
        drawn = table.sample(8000, seed=0)
        share = float(table.probability("t < '2024-10-01'", 2000, seed=0).value)
        assert (drawn.t < pandas.Timestamp("2024-10-01", tz="Europe/Rome")).mean() == pytest.approx(share, abs=0.05)


def test_a_day_whose_midnight_is_skipped_is_a_day() -> None:
    """In Cairo clocks went from 2024-04-25 24:00 to 01:00."""
    pandas: Any = pytest.importorskip("pandas")
    days = pandas.date_range("2024-04-01", periods=50)
    days = days[days != "2024-04-26"].tz_localize("Africa/Cairo").repeat(20)
    frame = pandas.DataFrame({"t": days, "z": np.arange(len(days)) % 3})
    table = table_of(frame, {"t": "integer"}, strength=1.0)
    answer = table.probability("t = '2024-04-26'", 2000, seed=0)
    drawn = table.sample(8000, seed=0)
    here = drawn.t == pandas.Timestamp("2024-04-26 01:00", tz="Africa/Cairo")
    assert float(answer.value) > 0 and here.mean() == pytest.approx(float(answer.value), abs=0.02)
    assert here.any() and table.log_prob(drawn).isfinite().all()
    assert table_of(drawn).schema.columns[0].unit == "day"


def test_the_last_day_of_datetime_has_no_time_zone() -> None:
    polars: Any = pytest.importorskip("polars")
    moments = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=each) for each in range(599)]
    series = polars.Series([*moments, datetime.datetime(9999, 12, 31, 23, 59)])
    assert table_of(polars.DataFrame({"t": series, "z": GOOD})).schema.columns[0].unit == "second"
    away = series.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Rome")
    with pytest.raises(ValueError, match=r"column 't' must lie in the years 1 to 9999, less a day .* 9999-12-31T23:59"):
        table_of(polars.DataFrame({"t": away, "z": GOOD}))


@pytest.mark.parametrize("library", ["mapping", "pandas", "polars"])
@pytest.mark.parametrize("shift", [0, 2**52, 2**60])
def test_whole_numbers_of_a_range_that_bins_cannot_hold_are_real(library: str, shift: int) -> None:
    wide = np.random.default_rng(0).integers(0, 2**53, 600) + shift
    frame: Any = {"id": wide, "z": GOOD}
    frame = frame if library == "mapping" else pytest.importorskip(library).DataFrame(frame)
    table = table_of(frame)
    assert table.schema.columns[0].kind == "real"
    assert table.log_prob(frame).isfinite().all()
    assert "loat64" in str(table.sample(20, seed=0)["id"].dtype)


def test_bins_of_the_widest_whole_numbers_are_exact_to_a_thousandth() -> None:
    """Against the density of the same mixture times the width of a bin."""
    wide = np.sort(np.random.default_rng(0).integers(0, WIDEST, 600)) + LARGEST - WIDEST
    wide[0], wide[-1] = LARGEST - WIDEST, LARGEST
    frame = {"id": wide, "z": GOOD}
    whole, real = table_of(frame), table_of(frame, {"id": "real"})
    inner = {name: values[1:-1] for name, values in frame.items()}
    assert whole.schema.rounded == [0] and real.schema.rounded == []
    error = (whole.log_prob(inner) - real.log_prob(inner)).abs().max()
    assert float(error) < 1e-3


@pytest.mark.parametrize("library", ["mapping", "pandas", "polars"])
def test_dates_that_are_taken_for_real_ones_are_drawn_as_times(library: str) -> None:
    days = np.datetime64("2024-01-01") + np.arange(600) % 50
    frame: Any = {"t": days if library == "mapping" else days.tolist(), "z": GOOD}
    frame = frame if library == "mapping" else pytest.importorskip(library).DataFrame(frame)
    table = table_of(frame, {"t": "real"})
    drawn = np.asarray(table.sample(4000, seed=0)["t"])
    share = float(table.probability("t <= '2024-01-20'", 2000, seed=0).value)
    assert drawn.dtype == "datetime64[us]" and (drawn != drawn.astype("datetime64[D]")).any()
    assert (drawn <= np.datetime64("2024-01-20")).mean() == pytest.approx(share, abs=0.04)
