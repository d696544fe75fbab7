"""The suite ``paper`` on small files: it chooses by validation, resumes, reads test rows once, and says how it stands."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.paper import grid as paper_grid
from benchmarks.paper import published
from benchmarks.paper import run as paper
from benchmarks.paper.grid import Configuration
from benchmarks.paper.published import Figure

GRID = (Configuration((16,), epochs=3), Configuration((16,), epochs=3, learning_rate=1e-6))


def write_set(path: Path, features: int = 12) -> None:
    """Rows that depend on one hidden coin each."""
    rng = np.random.default_rng(0)
    sizes = {"train": 600, "valid": 200, "test": 300}
    rows = {
        name: rng.random((count, features)) < np.where(rng.random((count, 1)) < 0.5, 0.9, 0.1)
        for name, count in sizes.items()
    }
    np.savez_compressed(path, n_features=features, **{name: np.packbits(each, axis=1) for name, each in rows.items()})


def test_the_choice_is_made_on_validation_rows(tmp_path: Path) -> None:
    write_set(tmp_path / "coins.npz")
    result = paper.run_set(tmp_path / "coins.npz", tmp_path / "out", 5.0, GRID)
    runs = paper.Log(tmp_path / "out" / "coins").runs()
    assert set(runs) == {each.name for each in GRID}
    assert result["name"] == min(runs.values(), key=lambda run: run["valid"])["name"] == GRID[0].name
    assert [len(run["curve"]) for run in runs.values()] == [3, 3]
    assert result["rows"] == [600, 200, 300] and abs(result["test"] - result["valid"]) < 0.5
    assert 0 < result["half_width"] < 0.5
    assert json.loads((tmp_path / "out" / "coins" / "result.json").read_text())["test"] == result["test"]


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "coins.npz")
    whole = paper.run_set(tmp_path / "coins.npz", tmp_path / "whole", 5.0, GRID[:1])

    class Stopped(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(paper, "print", stop, raising=False)  # after the first epoch, its checkpoint written
        with pytest.raises(Stopped):
            paper.run_set(tmp_path / "coins.npz", tmp_path / "parts", 5.0, GRID[:1])
    assert paper.Log(tmp_path / "parts" / "coins").file(GRID[0], ".ckpt").exists()
    parts = paper.run_set(tmp_path / "coins.npz", tmp_path / "parts", 5.0, GRID[:1])
    assert (parts["test"], parts["valid"]) == (whole["test"], whole["valid"])
    again = paper.run_set(tmp_path / "coins.npz", tmp_path / "parts", 5.0, GRID[:1])  # nothing is left to train
    assert again["curve"] == parts["curve"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "adult.npz")
    write_set(tmp_path / "coins.npz", features=9)
    monkeypatch.setattr(paper, "grid_of", lambda name: GRID[:1])
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--budget", "1"]
    main(["paper", *options])
    text = (tmp_path / "out" / "paper.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| adult | 600 / 200 / 300 x 12 |" in text and "13.12 ± 0.05" in text and "| coins |" in text
    with pytest.raises(SystemExit, match="got nothing"):
        main(["paper", *options, *shlex.split("--set adult nothing")])
    with pytest.raises(SystemExit, match="found none"):
        main(["paper", "--data", str(tmp_path / "out")])


def test_no_time_is_no_result(tmp_path: Path) -> None:
    write_set(tmp_path / "coins.npz")
    with pytest.raises(SystemExit, match="give more minutes"):
        paper.run_set(tmp_path / "coins.npz", tmp_path / "out", 0.0, GRID)


@pytest.mark.parametrize(
    ("nats", "expected"),
    [(13.0, "better than both rows"), (13.125, "within its interval"), (13.17, "within"), (13.18, "worse")],
)
def test_verdicts(nats: float, expected: str) -> None:
    assert paper.verdict("adult", Figure(nats, 0.05)).startswith(expected)
    assert paper.verdict("coins", Figure(nats, 0.05)) == ""
    assert paper.verdict("web", Figure(28.4)) == "better than one mask"


def test_every_published_set_has_all_rows() -> None:
    names = set(published.MADE_FIXED)
    assert names == set(published.MADE_SAMPLED) == set(published.OTHERS)
    for name in [*names, "another"]:
        grid = paper_grid.grid_of(name)
        assert len({each.name for each in grid}) == len(grid) > 0
        assert paper_grid.weight_of(name) > 0
