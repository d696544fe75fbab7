"""The suite ``paper`` on small files: it chooses by validation, resumes, reads test rows once, and says how it stands."""

import dataclasses
import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.paper import published, variants
from benchmarks.paper import run as paper
from benchmarks.paper.published import Figure
from benchmarks.paper.wide import _Dense
from made_fast import MADE
from made_fast.datasets import Dataset, load
from made_fast.training import Recipe, backward, fit

SMALL: dict[str, Any] = {"hidden_features": (16,), "epochs": 3, "members": 2}


def write_set(path: Path, features: int = 12) -> Path:
    """Rows that depend on one hidden coin each."""
    rng = np.random.default_rng(0)
    sizes = {"train": 600, "valid": 200, "test": 300}
    rows = {
        name: rng.random((count, features)) < np.where(rng.random((count, 1)) < 0.5, 0.9, 0.1)
        for name, count in sizes.items()
    }
    np.savez_compressed(path, n_features=features, **{name: np.packbits(each, axis=1) for name, each in rows.items()})
    return path


@pytest.fixture
def coins(tmp_path: Path) -> Dataset:
    return load(write_set(tmp_path / "coins.npz"))


def recipe_of(data: Dataset, **changes: Any) -> Recipe:
    return dataclasses.replace(variants.recipe_of(data, members=2), **{**SMALL, **changes})


def test_a_set_is_trained_and_its_test_rows_read_once(
    tmp_path: Path, coins: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    evaluate = paper.evaluate
    monkeypatch.setattr(paper, "evaluate", lambda model, rows: read.append(len(rows)) or evaluate(model, rows))
    result = paper.run_set(coins, recipe_of(coins), tmp_path / "out")
    assert sorted(set(read)) == [200, 300] and read[-1] == 300 and read.count(300) == 1
    assert result["rows"] == [600, 200, 300] and len(result["curve"]) == 3 and len(result["members"]) == 2
    assert abs(result["test"] - result["valid"]) < 0.5 and 0 < result["half_width"] < 0.5
    assert result["valid"] <= result["valid of all"] == min(epoch[2] for epoch in result["curve"])
    assert json.loads((tmp_path / "out" / "coins" / "result.json").read_text())["test"] == result["test"]
    again = paper.run_set(coins, recipe_of(coins), tmp_path / "out")  # nothing is left to train or to read
    assert again == json.loads(json.dumps(result)) and read.count(300) == 1


def test_a_run_goes_on_where_it_was_stopped_and_is_repeatable(
    tmp_path: Path, coins: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = paper.run_set(coins, recipe_of(coins), tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(paper, "print", stop, raising=False)  # after the first epoch, its checkpoint written
        with pytest.raises(Stopped):
            paper.run_set(coins, recipe_of(coins), tmp_path / "parts")
    assert paper.Log(tmp_path / "parts" / "coins").file("recipe", ".ckpt").exists()
    parts = paper.run_set(coins, recipe_of(coins), tmp_path / "parts")
    assert (parts["test"], parts["valid"]) == (whole["test"], whole["valid"])
    other = paper.run_set(coins, recipe_of(coins), tmp_path / "other", seed=1)
    assert other["valid"] != whole["valid"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "adult.npz")
    write_set(tmp_path / "dna.npz", features=9)
    write_set(tmp_path / "coins.npz", features=10)
    monkeypatch.setattr(paper, "recipe_of", lambda data, **_: recipe_of(data, epochs=1))
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--budget", "1"]
    main(["paper", *options])
    text = (tmp_path / "out" / "paper.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| adult | 600 / 200 / 300 x 12 |" in text and "13.12 ± 0.05" in text and "| coins |" in text
    assert "83.63 ± 0.52" in text and "| 84.81 | 82.31 | 81.04 |" in text
    with pytest.raises(SystemExit, match="got nothing"):
        main(["paper", *options, *shlex.split("--set adult nothing")])
    with pytest.raises(SystemExit, match="found none"):
        main(["paper", "--data", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--data must be a folder"):
        main(["paper"])


def test_time_is_divided_by_what_sets_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, features in (("wide", 40), ("narrow", 4)):
        write_set(tmp_path / f"{name}.npz", features)
    given: dict[str, float] = {}
    monkeypatch.setattr(paper, "write", lambda *_: None)
    monkeypatch.setattr(paper, "markdown", lambda _: "")
    monkeypatch.setattr(paper, "run_set", lambda data, _, __, minutes, ___: given.update({data.name: minutes}))
    main(["paper", "--data", str(tmp_path), "--out", str(tmp_path), "--budget", "30"])
    assert list(given) == ["narrow", "wide"] and given["narrow"] < given["wide"]
    assert given["wide"] == pytest.approx(30, abs=0.1)  # what the first has not used is the second's
    main(["paper", "--data", str(tmp_path), "--out", str(tmp_path)])
    assert given == {"narrow": None, "wide": None}
    small, large = (variants.cost_of(*(pair := (load(tmp_path / f"{name}.npz"),)), recipe_of(*pair)) for name in given)
    assert 0 < small < large


def test_ablation_reads_no_test_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coins: Dataset) -> None:
    monkeypatch.setattr(paper, "recipe_of", lambda data, **_: recipe_of(data, epochs=1))
    lengths: list[int] = []
    evaluate = paper.evaluate
    monkeypatch.setattr(paper, "evaluate", lambda model, rows: lengths.append(len(rows)) or evaluate(model, rows))
    main(["paper", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--ablation"])
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert set(lengths) == {200}
    assert "| changed | coins |" in text
    for name in ("recipe", *variants.VARIANTS):
        assert f"| {name} |" in text
    assert text.count("(+0.00)") >= 1
    runs = paper.Log(tmp_path / "out" / "paper" / "ablation" / "coins").runs()
    assert set(runs) == {"recipe", *variants.VARIANTS} and all("valid" in run for run in runs.values())


def test_the_table_of_the_demo_is_trained_beside_the_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coins: Dataset
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(paper, "recipe_of", lambda data, **_: recipe_of(data, epochs=1))
    monkeypatch.setattr(paper, "VARIANTS", {"relu": variants.VARIANTS["relu"]})
    main(["paper", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--ablation", "--table"])
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "| changed | coins | patients |" in text and "nan" not in text


def test_each_variant_changes_the_recipe(coins: Dataset) -> None:
    chosen = variants.recipe_of(coins, members=4)
    changed = [change(chosen) for change in variants.VARIANTS.values()]
    assert len({repr(each) for each in [chosen, *changed]}) == len(changed) + 1
    assert variants.recipe_of(coins, members=4, epochs=1e-9).epochs == 1


@pytest.mark.parametrize(
    ("nats", "expected"),
    [(13.0, "best of all rows"), (13.125, "within its interval"), (13.17, "within"), (13.18, "worse")],
)
def test_verdicts(nats: float, expected: str) -> None:
    assert paper.verdict("adult", Figure(nats, 0.05)).startswith(expected)
    assert paper.verdict("coins", Figure(nats, 0.05)) == ""
    assert paper.verdict("web", Figure(28.4)) == "better than one mask"
    assert paper.verdict("web", Figure(28.0)) == "better than both rows of MADE"


def test_every_published_set_has_all_rows() -> None:
    names = set(published.MADE_FIXED)
    assert names == set(published.MADE_SAMPLED) == set(published.OTHERS)
    assert {"dna", "nips-0-12", "rcv1"} < names
    assert all(set(row) == {"NADE", "EoNADE", "DARN"} for row in published.OTHERS.values())


def test_wide_layers_are_timed_beside_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["paper", "--quick", "--wide", "--out", str(tmp_path)])
    text = (tmp_path / "wide.md").read_text()
    assert text.strip() in capsys.readouterr().out and "| 16 | 2,096 |" in text and "GiB" in text


def test_the_dense_network_beside_ours_is_the_same() -> None:
    torch.manual_seed(0)
    model, x = MADE(9, (12, 12), direct=True, activation="silu"), (torch.rand(7, 9) < 0.5).float()
    for layer in model.masked_layers:
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    backward(model, x)
    dense = _Dense(model, torch.float32)
    found: list[torch.Tensor] = []
    for weight, _, _ in dense.layers:
        weight.register_hook(found.append)
    dense.step(x)
    expected = [layer.weight.grad for layer in model.masked_layers]
    assert len(found) == 4
    for grad in expected:
        assert any(grad.shape == each.shape and torch.allclose(grad, each, atol=1e-6) for each in found)


def test_the_defaults_of_fit_are_those_that_are_told() -> None:
    signature = inspect.signature(fit).parameters
    told = {name: value for name, value in variants.FIT.items() if name != "learning_rate"}
    assert {name: signature[name].default for name in told} == told
    assert "1e-3 if left out" in (fit.__doc__ or "") and variants.FIT["learning_rate"] == 1e-3
