"""The peer benchmark: its table, and that a peer that cannot run becomes a row that says why."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.peers.table")


@pytest.fixture
def run(table: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.peers.run")


def _row(**measured: object) -> dict[str, object]:
    case = {"features": 64, "hidden": 512, "batch": 100, "widths": [512, 512], "note": ""}
    return case | {"call": "maf", "text": "flow.sample(B)", "draws": "real, affine; D whole passes"} | measured


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_of_a_quick_a_slow_and_a_failed_peer(table: ModuleType) -> None:
    beside = {"ours_before_ms": 0.01, "ours_after_ms": 0.03}
    timed = {"min_ms": 5.0, "repeats": 7, "threads": "torch 2", "versions": ["lib 1.0"]}
    rows = [
        _row(peer="broken", error="IndexError: a | b", **beside),
        _row(peer="slow", median_ms=12.34, **timed, **beside),
        _row(peer="ours", median_ms=0.02, **timed),
        _row(peer="lonely", median_ms=2000.0, **timed, ours_before_ms=None, ours_after_ms=0.03),
        _row(peer="small", median_ms=9e9, **timed, **beside) | {"features": 8},
    ]
    lines = table.render(rows, {"processor": "a test"}).splitlines()
    assert "- processor: a test" in lines
    header, _, *body = [line for line in lines if line.startswith("|")]
    names = _cells(header)
    assert [_cells(line)[3] for line in body] == ["small maf", "ours maf", "slow maf", "lonely maf", "broken maf"]
    ours, slow, lonely = (dict(zip(names, _cells(line), strict=True)) for line in body[1:4])
    assert (slow["median ms"], slow["min ms"], slow["hidden layers"]) == ("12.3", "5.00", "2 x 512")
    assert (slow["ours before / after, ms"], slow["peer / ours"]) == ("0.01 / 0.03", "617x")
    assert (slow["versions"], slow["call"]) == ("lib 1.0", "`flow.sample(B)`")
    assert (lonely["ours before / after, ms"], lonely["peer / ours"]) == ("– / 0.03", "–")
    assert (ours["median ms"], ours["peer / ours"]) == ("0.02", "")
    assert "cannot run: IndexError: a \\| b" in body[4]


def test_a_peer_that_cannot_run_says_why(run: ModuleType) -> None:
    (call,) = importlib.import_module("benchmarks.peers.nflows").CALLS
    result = run.measure(sys.executable, "no_such_peer", call, (4, 8, 1), seconds=0.01, limit=60)
    assert "No module named" in result["error"]
    late = run.measure(sys.executable, "nflows", call, (4, 8, 1), seconds=0.01, limit=0.001)
    assert late == {"error": "no result within 0 s"}


def test_every_peer_file_says_what_it_needs(run: ModuleType) -> None:
    for name in run.PEERS:
        peer = importlib.import_module(f"benchmarks.peers.{name}")
        assert all("==" in package for package in peer.PACKAGES), name
        assert peer.PACKAGES[0].startswith(("torch==", "jax==")), name
        assert len({call.name for call in peer.CALLS}) == len(peer.CALLS) > 0, name
        assert all(call.widths(784, 512) and call.text and call.draws for call in peer.CALLS), name
