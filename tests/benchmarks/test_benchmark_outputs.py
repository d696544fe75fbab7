"""The suites ``outputs``, ``cardinality`` and ``output_peers`` at small sizes: complete, and nothing wrong is timed."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import WrongResult, contenders
from benchmarks.__main__ import main
from benchmarks.cases import Case, cases_of
from benchmarks.suites import cardinality, cardinality_table, output_peers, outputs
from benchmarks.suites.cardinality_table import COLUMNS, NAMES, Query

CASES, QUICK_CASES = cases_of("outputs"), cases_of("outputs", quick=True)


@pytest.mark.slow
def test_tables_of_outputs_are_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*shlex.split("outputs --quick --seconds 0.01 --threads 1 --out"), str(tmp_path)])
    printed = capsys.readouterr().out
    for title in ("## Many rows", "## One row", "sample / quicker dense", "naive / sample"):
        assert title in printed
    written = json.loads((tmp_path / "outputs.json").read_text())
    for rows in (written["many rows"], written["one row"]):
        assert [row["output"] for row in rows] == [case.output for case in QUICK_CASES]
        assert all(row["sample / quicker dense"]["median"] > 0 for row in rows)


@pytest.mark.parametrize("case", QUICK_CASES, ids=lambda case: case.name)
def test_a_wrong_contender_is_not_timed(case: Case) -> None:
    model = case.model()
    frozen = model.sampler()
    x = frozen.sample(32, seed=contenders.SEED + 1)
    runs = outputs.contenders_of(model, frozen, x)
    outputs.check(model, frozen, runs, x, case.name)
    for name in runs.keys() - {outputs.SAMPLE}:
        wrong = runs | {name: lambda name=name: 1.001 * runs[name]()}
        with pytest.raises(WrongResult, match="is wrong by"):
            outputs.check(model, frozen, wrong, x, case.name)


def test_a_sampler_of_other_weights_is_not_timed() -> None:
    model = QUICK_CASES[0].model()
    frozen = model.sampler()
    with torch.no_grad():
        model.parameters_layer.weight.neg_()
    x = frozen.sample(64, seed=0)
    with pytest.raises(WrongResult, match="contradict the model"):
        outputs.check(model, frozen, {outputs.SAMPLE: contenders.sampler(frozen, 64)}, x, "negative")


def test_conditionals_of_the_cases_depend_on_what_was_drawn() -> None:
    for case in QUICK_CASES:
        model = case.model()
        with torch.no_grad():
            spread = model(model.sample(200, seed=0)).std(0)
        assert (spread > 0.1).float().mean() > 0.5, case.name
    assert {case.features for case in CASES if case.output != "table"} == {784}


def test_queries_and_their_errors_by_hand() -> None:
    rows = np.zeros((3, len(COLUMNS)), dtype=np.int64)
    age, price = NAMES.index("age"), NAMES.index("price")
    rows[:, age], rows[:, price] = (20, 40, 60), (5, 7, 199)
    query = Query({age: (30, 79), price: (6, 7)})
    assert query.matches(rows).tolist() == [False, True, False]
    assert str(query) == "age >= 30 and 6 <= price <= 7"
    assert cardinality_table.independent(rows, [query]).tolist() == pytest.approx([3 * 2 / 3 * 1 / 3])
    assert cardinality_table.q_errors([0.0, 10.0, 2.0], [4.0, 5.0, 8.0]).tolist() == [4, 2, 4]


def test_the_table_is_a_function_of_its_seed() -> None:
    rows = cardinality_table.generate(2000, seed=3)
    np.testing.assert_array_equal(rows, cardinality_table.generate(2000, seed=3))
    assert (rows != cardinality_table.generate(2000, seed=4)).any()
    assert (rows >= 0).all() and (rows.max(0) < [column.size for column in COLUMNS]).all()
    queries = cardinality_table.make_queries(rows, 50)
    assert all(query.matches(rows).any() for query in queries)


@pytest.mark.slow
def test_a_small_run_of_cardinality_prints_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--checkpoint", str(tmp_path / "a.ckpt"), "--out", str(tmp_path)]
    main(["cardinality", "--quick", *paths])
    printed = capsys.readouterr().out
    for name in (cardinality.PROGRESSIVE, cardinality.NAIVE, "columns taken as independent", "queries a second"):
        assert name in printed
    written = json.loads((tmp_path / "cardinality.json").read_text())
    assert all(row["50 %"] >= 1 for row in written["estimators"])
    assert written["against naive"]["largest relative difference"] < 1e-3


def test_table_of_peers() -> None:
    case = {"D": 64, "H": 512, "B": 100, "draws": "real", "call": "`flow.sample(B)`", "also differs": ""}
    timed = {"median_ms": 12.0, "ours_before_ms": 0.1, "ours_after_ms": 0.3, "versions": ["lib 1.0"], "ours": ["cpp"]}
    text = output_peers.markdown([case | {"peer": "lib maf"} | timed, case | {"peer": "broken", "error": "no wheel"}])
    lines = text.splitlines()
    assert lines[0] == "Ours: cpp."
    (found,) = (line for line in lines if "lib maf" in line)
    assert "| 120 | 1.00 / 3.00 | 60.0x |" in found
    assert any("broken" in line and "no wheel" in line for line in lines)
