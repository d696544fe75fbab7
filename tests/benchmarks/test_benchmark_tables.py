"""The suite ``tables``: its law is a density, its queries count what they say, and a small run prints everything."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.suites.tables_law import Query, generate, make_queries


def test_the_table_is_a_function_of_its_seed() -> None:
    columns, log_prob = generate(3000, seed=3)
    again, _ = generate(3000, seed=3)
    assert all(
        np.array_equal(columns[name], again[name], equal_nan=columns[name].dtype.kind == "f") for name in columns
    )
    assert np.isfinite(log_prob).all()
    other, _ = generate(3000, seed=4)
    assert (columns["age"] != other["age"]).any()


def test_queries_count_what_they_say() -> None:
    columns, _ = generate(2000, seed=0)
    queries = make_queries(columns, 60)
    assert all(query.matches(columns).any() for query in queries)
    query = Query((("device", "is null", None), ("age", ">=", 40), ("region", "in", ("Oslo", "Rome"))))
    assert str(query) == "device is null and age >= 40 and region in ('Oslo', 'Rome')"
    rows = zip(columns["device"], columns["age"], columns["region"], strict=True)
    expected = [device is None and age >= 40 and region in ("Oslo", "Rome") for device, age, region in rows]
    assert query.matches(columns).tolist() == expected


@pytest.mark.slow
def test_a_small_run_prints_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("scipy")
    main(["tables", "--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in ("Q-error of 10 queries", "predicates taken as independent", "chi-square", "total variation"):
        assert name in printed
    written = json.loads((tmp_path / "tables.json").read_text())
    assert written["small"]["p-value"] > 1e-6
    assert written["small"]["sum of all probabilities"] == pytest.approx(1, abs=1e-4)
    assert written["large"]["difference"] > -4 * written["large"]["its error"]  # no model beats the law
