"""A first pass over chunks decides columns as the whole table would; rows in files are those of ``encode``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from table_cases import frame

from made_fast.tables import Column, Schema, Table, survey
from made_fast.tables.survey import Survey, encode_parts


def chunks(data: dict[str, Any], size: int) -> list[dict[str, Any]]:
    total = len(next(iter(data.values())))
    return [{name: values[at : at + size] for name, values in data.items()} for at in range(0, total, size)]


def surveyed(data: dict[str, Any], size: int, columns: Any = None) -> Schema:
    made = Survey()
    for chunk in chunks(data, size):
        made.add(chunk)
    assert made.rows == len(next(iter(data.values())))
    return made.schema(columns)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_a_table_below_the_sample_has_the_columns_of_the_whole(size: int) -> None:
    days = np.datetime64("2024-01-01") + np.arange(400) % 90
    data = {**frame(), "day": days, "real": np.where(np.isnan(frame()["real"]), np.nan, frame()["real"])}
    data["city"] = np.array([str(each) for each in data["city"]])
    data["flag"] = np.array([each is True for each in data["flag"]])
    assert surveyed(data, size) == Schema.of(data)


def late() -> dict[str, Any]:
    """Columns whose last row alone has what decides on them; all else is of few kinds."""
    rows = np.random.default_rng(0)
    made: dict[str, Any] = {
        "category": rows.choice(["a", "b"], 5000),
        "range": rows.integers(0, 900, 5000),
        "broken": rows.integers(0, 9000, 5000).astype(float),
        "hole": rows.normal(size=5000),
        "outlier": rows.normal(size=5000),
        "flag": np.zeros(5000, dtype=bool),
        "bit": np.zeros(5000, dtype=np.int64),
        "day": np.datetime64("2024-01-01T00:00:00") + rows.integers(0, 20_000, 5000).astype("timedelta64[D]"),
        "many": rows.integers(0, 10**6, 5000) * (rows.random(5000) < 0.01),
    }
    last = {
        "category": "c",
        "range": 999,
        "broken": 0.5,
        "hole": np.nan,
        "outlier": 1e6,
        "flag": True,
        "bit": 1,
        "many": 10**7,
    }
    for name, value in {**last, "day": np.datetime64("2024-01-01T12:00:00")}.items():
        made[name][-1] = value
    return made


@pytest.mark.parametrize("most", [5000, 40])
def test_what_comes_in_the_last_row_alone_is_known(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(survey, "_SAMPLE", 500)
    monkeypatch.setattr(survey, "MOST_CATEGORIES", most)
    data = late()
    found, whole = surveyed(data, 640), Schema.of(data)
    assert [(each.name, each.kind, each.unit, each.missing) for each in found.columns] == [
        (each.name, each.kind, each.unit, each.missing) for each in whole.columns
    ]
    assert [str(each).split(" from ")[0] for each in found.columns][3:] != []
    by_name = {each.name: each for each in found.columns}
    assert by_name["category"].values == ("a", "b", "c")
    assert by_name["range"].high >= 999 and by_name["outlier"].scale.knots[-1] == 1e6
    assert found.encode(data).isfinite().all()


def test_scales_of_a_sample_are_near_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_SAMPLE", 4000)
    data = {
        "x": np.random.default_rng(1).normal(5.0, 3.0, 20_000),
        "y": np.random.default_rng(2).gamma(1.0, 2.0, 20_000),
    }
    found = surveyed(data, 1000)
    np.testing.assert_allclose(found.columns[0].scale.knots, [2.0, 8.0], atol=0.3)
    assert found.columns[1].scale.knots[-1] == data["y"].max()
    assert surveyed(data, 3000) != found, "a sample of other chunks is another one"


def test_columns_as_they_are_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_SAMPLE", 299)  # with all but one of the rows
    data = {"n": np.arange(300) % 40, "t": np.array(["a"] * 298 + ["b", "c"])}
    found = surveyed(data, 64, {"n": "category", "t": Column(other="rest")})
    assert found.columns[0].values == tuple(range(40)) and found.columns[1].values == ("a", "rest")


def test_chunks_that_do_not_fit_are_refused() -> None:
    made = Survey()
    made.add({"a": np.arange(4)})
    with pytest.raises(ValueError, match="chunks must have the columns of the first, a; got b"):
        made.add({"b": np.arange(4)})
    with pytest.raises(ValueError, match="column 'a' must hold numbers in all chunks, got texts"):
        made.add({"a": np.array(["x"])})
    made.add({"a": np.array([None, None], dtype=object)})
    made.add({"a": np.array([0.5, np.nan])})
    assert made.schema().columns[0].kind == "real" and made.schema().columns[0].missing and made.rows == 8
    with pytest.raises(ValueError, match="frame must have at least one row"):
        Survey().schema()


def test_rows_in_files_are_those_of_encode(tmp_path: Path) -> None:
    data = frame()
    schema, parts = Schema.of(data), np.random.default_rng(0).integers(0, 3, 400).astype(np.uint8)
    found = encode_parts(schema, chunks(data, 37), parts, tmp_path)
    expected = schema.encode(data).float()
    for number, each in enumerate(found):
        torch.testing.assert_close(each, expected[parts == number], rtol=0, atol=0)
    options: dict[str, Any] = {"columns": schema, "epochs": 1, "hidden_features": (8,), "batch_size": 50}
    table = Table.fit(found[0], found[1], **options)
    rows = [{name: values[parts == number] for name, values in data.items()} for number in range(2)]
    same = Table.fit(rows[0], rows[1], **options)
    assert all(torch.equal(value, same.model.state_dict()[name]) for name, value in table.model.state_dict().items())
    for wrong, message in (
        (parts[:-1], "399 rows in all, got more"),
        (np.append(parts, 0), "401 rows in all, got 400"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_parts(schema, chunks(data, 37), wrong, tmp_path)
    with pytest.raises(ValueError, match=r"value that was not seen .*'Lyon' in row 0 after the first 37"):
        encode_parts(schema, [chunks(data, 37)[0], {**chunks(data, 37)[1], "city": ["Lyon"] * 37}], parts, tmp_path)
    with pytest.raises(ValueError, match=r"frame must be rows .* of Schema.encode where it is a tensor"):
        schema.encode(found[0][:, 1:])
