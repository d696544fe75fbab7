"""Bad input: one clear line, a ValueError."""

import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from table_cases import COLUMNS, frame, table_of

from made_fast import MADE, Between
from made_fast.models import files
from made_fast.sampling import Estimate
from made_fast.tables import Column, Schema, Table
from made_fast.tables.frames import Form
from made_fast.tables.queries import parse

GOOD = np.arange(40) % 4
REFUSED: list[tuple[Any, Any, str]] = [
    ({}, None, "frame must have at least one row and one column, got 0 rows and 0 columns"),
    ({"a": np.array([])}, None, "frame must have at least one row"),
    ({"a": np.full(10, 3.5)}, None, "column 'a' must have at least two values, got 3.5 alone"),
    ({"a": ["x"] * 10}, None, "column 'a' must have at least two values, got 'x' alone"),
    ({"a": np.full(10, np.nan)}, None, "column 'a' must have cells that are not missing"),
    ({"a": [None, None]}, None, "column 'a' must have cells that are not missing"),
    (
        {"a": ["x", 1, 2.0]},
        None,
        "column 'a' must hold text, flags, numbers or dates, all of one type, got float and int and str",
    ),
    ({"a": [1.0, np.inf]}, None, "column 'a' must be finite, below 1e+150, got inf in row 1"),
    ({"a": GOOD, "b": GOOD[:3]}, None, "frame must have columns of equal length"),
    ({"a": np.ones((3, 2))}, None, "column 'a' must be an array or a list of one dimension"),
    ({"a": GOOD * 1e200}, None, "column 'a' must be finite, below 1e+150, got 1e+200 in row 1"),
    ({1: GOOD}, None, "frame must have columns with names that are text, got 1"),
    ([1, 2], None, "frame must be a data frame"),
    ({"a": GOOD.astype(complex)}, None, "column 'a' must hold text, flags, numbers"),
    (
        {"a": [f"id{number}" for number in range(6000)]},
        None,
        "column 'a' must have at most 5,000 categories, got 6,000",
    ),
    ({"a": GOOD}, {"b": "real"}, "columns must name columns of the frame, 'a'; got 'b'"),
    ({"a": GOOD}, {"a": "number"}, "the kind of column 'a' must be one of"),
    ({"a": ["x", "y"]}, {"a": "real"}, "the kind of column 'a', which has texts, must be one of"),
    ({"a": GOOD + 0.5}, {"a": "integer"}, "column 'a' must have whole numbers to be of kind 'integer'"),
    ({"a": GOOD}, {"a": Column("integer", low=1)}, "low and high must hold the values from 0 to 3, got 1"),
    (
        {"a": 2**52 + GOOD * 2**48},
        {"a": "integer"},
        "column 'a' must have whole numbers to be of kind 'integer', at most 2**40 apart and below 2**52, got 45035",
    ),
    ({"a": GOOD}, {"a": Column("real", low=0)}, "low and high must be left out for column 'a', which has real numbers"),
    (
        {"a": GOOD * 1e-310},
        {"a": "real"},
        "column 'a' must have numbers further apart than fp64 rounds, got 0.0 .. 3e-310",
    ),
    (
        {"a": np.full(40, "2024-01-01", dtype="datetime64[s]")},
        None,
        "column 'a' must have at least two values, got 2024-01",
    ),
    ({"a": GOOD}, {"a": "bit"}, "column 'a' must have two values to be of kind 'bit', got 4"),
    ({"a": ["x", "y"]}, {"a": Column(values=["x"])}, "values of column 'a' must hold all that occur"),
    ({"a": GOOD}, {"a": Column("category", other="rest")}, "other must be left out for column 'a'"),
]


@pytest.mark.parametrize(("data", "columns", "message"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_frames_that_are_no_tables(data: Any, columns: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        Table.fit(data, columns=columns, epochs=1)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_frames_of_libraries_that_are_no_tables() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for data, message in (
        (pandas.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "frame must have columns of different names: "),
        (
            pandas.DataFrame({"a": ["x", 1, None]}),
            "column 'a' must hold text, flags, numbers or dates, all of one type, got int and str",
        ),
        (pandas.DataFrame({"a": []}), "frame must have at least one row"),
        (pandas.DataFrame({0: [1, 2]}), "frame must have columns with names that are text, got 0"),
        (pandas.DataFrame({"a": pandas.to_timedelta([1, 2])}), "column 'a' must hold text, flags, numbers, dates"),
        (pandas.DataFrame({"a": pandas.to_datetime([1, 2])}), "column 'a' must not be finer than microseconds"),
        (polars.DataFrame({"a": [[1], [2]]}), "column 'a' must hold text, flags"),
        (polars.DataFrame({"a": [None, None]}), "column 'a' must hold"),
        (polars.DataFrame({"a": polars.Series([1, 2], dtype=polars.Int128)}), "column 'a' must hold text, flags"),
        (polars.DataFrame({"a": [1, 2]}).lazy(), "frame must be a data frame"),
    ):
        with pytest.raises(ValueError, match="must") as caught:
            Schema.of(data)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_without_narwhals_mappings_are_tables_and_frames_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "narwhals", None)
    assert Schema.of({"a": GOOD}).names == ["a"]
    with pytest.raises(ImportError, match=r"data frames need narwhals: pip install 'made_fast\[tables\]'"):
        Schema.of(object())


@pytest.fixture(scope="module")
def table() -> Table:
    days = np.datetime64("2024-01-01") + np.arange(400) % 60
    moments = np.datetime64("2024-01-01") + np.arange(400).astype("timedelta64[us]") * 7_777_777
    wide = np.arange(400) * 1000
    return table_of({**frame(), "day": days, "moment": moments, "wide": wide}, COLUMNS)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("nothing = 1", "column must be one of 'real', 'count'"),
        ({"nothing": 1}, "column must be one of 'real', 'count'"),
        ("day = '2024-02-31'", "query must compare column 'day' with dates or times, got '2024-02-31': day"),
        ("day = 3", "query must compare column 'day' with dates or times, got 3"),
        ("city = 3", "query must compare column 'city' with text, got 3"),
        ("city = 'Atlantis'", "query must name values of column 'city', 'Lima', 'Oslo', 'Rome'; got 'Atlantis'"),
        ("size = 7", "query must name values of column 'size', 1, 2, 3; got 7"),
        ("count > null", "query must compare column 'count' with numbers, got None"),
        ("city < 'Oslo'", "query must compare column 'city', whose text has no order, by = and in, got <"),
        ("real = 3", "query must give column 'real' a range, since one value has probability 0, got = 3"),
        ("wide != 1000", "query must give column 'wide' a range or one value, got != 1000"),
        ("real in (3, null)", "query must ask of column 'real' for values or for missing cells, got both"),
        ("wide in (1000, 3000)", "query must give column 'wide' a range or one value, got in \\(1000, 3000\\)"),
        ("real > 'x'", "query must compare column 'real' with numbers, got 'x'"),
        ("flag = 2", "query must compare column 'flag' with flags, got 2"),
        ("count between 1 or 2", "query must have 'and' at 16, got 'or'"),
        ("count = 1 or", "query must have the name of a column at 12, got 'its end'"),
        ("(count = 1 or size = 2", r"query must have 'and', 'or' or '\)' at 22, got 'its end'"),
        ("count = 1) and size = 2", r"query must have 'and' or 'or' at 9, got '\)'"),
        ("count = 1 size = 2", "query must have 'and' or 'or' at 10, got 'size'"),
        ("not size = 2", "query must have .*at 4, got 'size'"),
        (
            " or ".join(f"size = {1 + number % 3}" for number in range(9)),
            "query must have at most 8 alternatives, got 9",
        ),
        ("size = 2 or real = 3", "query must give column 'real' a range"),
        ("count = ", "query must have a value, text in single quotes at 7, got 'its end'"),
        ("", "query must have the name of a column at 0"),
        ("count = 'open", "query must have a name, a value or a sign at 7"),
        ("count in 1", r"query must have '\(' at 9, got '1'"),
        ("size = 3x", "query must have a name, a value or a sign at 6, got '3x'"),
        (3, "query must be text, a mapping, or a sequence of at least one such, got 3"),
        ([], "query must be text, a mapping, or a sequence of at least one such"),
        ([3], "query must be text or a mapping"),
        ({"city": {"Oslo": 1}}, r"query\['city'\] must be a Between, values or one value"),
        ({"real": float("nan")}, r"query\['real'\] must be a Between"),
    ],
)
def test_queries_that_are_none(table: Table, query: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        table.probability(query)
    assert "\n" not in str(caught.value)


def test_the_language_of_queries() -> None:
    text = """ "a column" >= -1.5e3 AND `b` in ('it''s', NULL) and c is not null and c<>3 and d Between '2024-01-01' and 7 """
    found = {name: [(each.sign, each.values) for each in predicates] for name, predicates in parse(text)[0].items()}
    assert found == {
        "a column": [(">=", (-1500.0,))],
        "b": [("in", ("it's", None))],
        "c": [("present", ()), ("not in", (3,))],
        "d": [(">=", ("2024-01-01",)), ("<=", (7,))],
    }
    alternatives = [[*each] for each in parse("a = 1 and (b = 2 OR (c = 3 or d = 4) and e = 5) or f = 6")]
    assert alternatives == [["a", "b"], ["a", "c", "e"], ["a", "d", "e"], ["f"]]


def test_dates_as_text_and_as_dates_are_the_same(table: Table) -> None:
    written = "day between '2024-01-10' and '2024-01-20' and moment < '2024-01-01 00:20'"
    first, last = datetime.date(2024, 1, 10), np.datetime64("2024-01-20")
    mapped = {"day": Between(first, last), "moment": Between(None, datetime.datetime(2024, 1, 1, 0, 20))}  # type: ignore[arg-type]
    assert torch.equal(table.probability(written, seed=0).value, table.probability(mapped, seed=0).value)
    whole = table.probability([f"day = '2024-01-{day}'" for day in range(10, 21)], 20_000, seed=0)
    ranged = table.probability("day between '2024-01-10' and '2024-01-20'", 20_000, seed=0)
    error = float((whole.standard_error**2).sum().sqrt() + ranged.standard_error)
    assert float(whole.value.sum()) == pytest.approx(float(ranged.value), abs=5 * error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.array([7.0])}, r"column 'count' must hold whole numbers 0 .. 3, got 7.0 in row 0"),
        (
            {"size": np.array([np.nan])},
            "column 'size' must have no missing cell, as where it was fitted; got one in row 0",
        ),
        ({"size": np.array(["x"])}, "column 'size' must hold numbers, got text"),
        ({"city": np.array(["Bonn"], dtype=object)}, "column 'city' has a value that was not seen"),
        ({"more": np.array([1])}, "column must be one of"),
        ({"size": None}, "frame must have column 'size'"),
    ],
)
def test_rows_that_the_table_does_not_have(change: dict[str, Any], message: str) -> None:
    table = table_of(frame(), COLUMNS)
    rows: dict[str, Any] = {name: values[:1] for name, values in frame().items()}
    assert table.log_prob(rows).shape == (1,)
    rows = {name: values for name, values in {**rows, **change}.items() if values is not None}
    with pytest.raises(ValueError, match=message):
        table.log_prob(rows)


def test_arguments_of_samples() -> None:
    table = table_of(frame(), COLUMNS)
    for options, message in (
        ({}, "num_samples must be given"),
        ({"num_samples": -1}, "num_samples must be"),
        ({"given": {"nothing": [1]}}, "column must be one of"),
        ({"given": {}}, "given must have at least one row and one column"),
        ({"given": {"size": [1]}, "candidates": 0}, "candidates must be"),
        ({"num_samples": 2, "where": "size = 1 or size = 2"}, "where must be a query without 'or'"),
        ({"num_samples": 2, "where": "size = 7"}, "query must name values of column 'size'"),
        ({"num_samples": 2, "where": "real > 5 and real < 4"}, "got a query of probability 0"),
        ({"num_samples": 2, "where": "real > 1e30"}, "where must hold for .* got a query of probability 0 in row 0"),
        ({"num_samples": 2, "first_row": -1}, "first_row must be"),
        (
            {"given": {"size": [1, 2], "real": [50.0, 1e30]}},
            "given must hold cells that the model can have, .* in row 1",
        ),
        ({"num_samples": 1, "seed": "x"}, "seed must be"),
    ):
        with pytest.raises(ValueError, match=message):
            table.sample(**options)  # type: ignore[arg-type]


def test_files_hold_the_table_and_run_nothing(tmp_path: Path) -> None:
    table, path = table_of(frame(), COLUMNS), tmp_path / "table.safetensors"
    table.save(path)
    again = Table.load(path)
    assert again.schema == table.schema
    assert torch.equal(again.log_prob(frame()), table.log_prob(frame()))
    assert torch.equal(MADE.load(path).parameters_layer.weight, table.model.parameters_layer.weight)
    table.model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has a model but no table: read it by MADE.load"):
        Table.load(tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(state, path, metadata={**metadata, "attachment": metadata["attachment"].replace("Rome", "Nome")})
    with pytest.raises(ValueError, match="is damaged: it does not hold what was written"):
        Table.load(path)
    config = table.model.arguments()
    for text in (
        "[]",
        "{",
        '{"format": "made_fast table 1"}',
        table.schema.to_json().replace('"low": 0', '"low": "0"'),
        table.schema.to_json().replace('"high": 3', '"high": 0'),
        table.schema.to_json().replace('"high": 3', '"high": 4'),
        table.schema.to_json().replace('"high": 3', '"high": 99999999999999999999'),
        table.schema.to_json().replace('"category"', '"something"'),
        table.schema.to_json().replace('"class": "levels"', '"class": "os.system"'),
        table.schema.to_json().replace('"values": ["Lima", ', '"values": ["Lima", "Bern", '),
        table.schema.to_json().replace('"places": [-1.0, 1.0]', '"places": [1.0, -1.0]'),
        table.schema.to_json().replace('"name": "city"', '"name": "size"'),
    ):
        assert text != table.schema.to_json()
        files.save(path, table.model.state_dict(), config, text)
        with pytest.raises(ValueError, match="does not fit its own configuration"):
            Table.load(path)


@pytest.mark.parametrize("library", ["mapping", "pandas", "polars"])
def test_a_dtype_that_there_is_not(library: str) -> None:
    """What a forged file may say."""
    data: Any = {"x": np.arange(40) % 3, "y": np.arange(40) % 2}
    if library != "mapping":
        data = pytest.importorskip(library).DataFrame(data)
    table = table_of(data)
    name = "name" if library == "polars" else "native"
    for made_up in ("int6u", "os.system('x')", "datetime64[Dn", "__class__", 3):
        form = Form(library, {**table.schema.form.dtypes, "x": {name: made_up}})
        with pytest.raises(ValueError, match="dtype must be"):
            Table(Schema(table.schema.columns, form), table.model).sample(3, seed=0)


def test_a_model_that_does_not_fit() -> None:
    table = table_of(frame(), COLUMNS)
    with pytest.raises(ValueError, match="model must have 7 variables"):
        Table(table.schema, MADE(3))
    with pytest.raises(ValueError, match=r"model must have .* for column 'real'"):
        Table(table.schema, MADE(7))
    backwards = MADE(7, (8,), output=table.schema.output(2, 0.1), order=list(range(6, -1, -1)))
    with pytest.raises(ValueError, match="before its value"):
        Table(table.schema, backwards)


def test_estimates_print_with_their_error() -> None:
    for value, error, text in (
        (0.482312, 0.000281, "0.4823 ± 0.0003"),
        (0.5, 0.0096, "0.50 ± 0.01"),
        (12.34, 3.0, "12 ± 3"),
        (1.23e-9, 4e-11, "(1.23 ± 0.04)e-09"),
        (0.99999996, 1e-8, "0.99999996 ± 0.00000001"),
        (0.0, 0.0, "0 ± 0"),
        (0.25, 2e-18, "0.25 ± 2e-18"),
        (0.25, float("nan"), "0.25 ± nan"),
    ):
        assert str(Estimate(*torch.tensor([value, error], dtype=torch.float64))) == text
    assert str(Estimate(torch.tensor([0.5, 0.25]), torch.tensor([0.1, 0.01]))) == "0.5 ± 0.1\n0.25 ± 0.01"


def test_fitting_learns_and_can_be_repeated() -> None:
    data = frame(600)
    options: dict[str, Any] = {"columns": COLUMNS, "hidden_features": (32,), "epochs": 6, "batch_size": 50}
    first, second = Table.fit(data, **options), Table.fit(data, **options)
    assert torch.equal(first.log_prob(data), second.log_prob(data))
    assert first.history is not None
    epochs = first.history.epochs
    assert epochs[-1].valid_nll < epochs[0].valid_nll
    held_out = Table.fit(data, data, **options)
    assert held_out.history is not None
    assert held_out.history.best.valid_nll == pytest.approx(-float(held_out.log_prob(data).mean()), abs=1e-3)
