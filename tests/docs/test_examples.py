"""The programs of examples/ run at small size and find what they should."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
Figures = dict[str, float]
NEEDED = {"mnist": "sklearn", "mixed_parameters": "sbi"}


def _mnist(found: Figures) -> None:
    assert found["nats"] < 38  # independent pixels: about 44
    assert found["spread of log-weights"] < 1e-4
    assert found["changed"] == 0


def _mixed_table(found: Figures) -> None:
    assert found["error"] < 0.7 * found["constant"]
    assert found["share"] == pytest.approx(found["counted"], rel=0.25)


def _ising(found: Figures) -> None:
    assert 0 <= found["divergence"] < 0.1
    assert 0 < found["bound - exact"] < 0.1
    assert found["standard errors"] < 5


def _simulation_based_inference(found: Figures) -> None:
    assert -0.01 < found["divergence"] < 0.1
    assert found["spread"] == pytest.approx(found["exact spread"], rel=0.1)
    assert found["first"] == pytest.approx(0.5, abs=0.1)


def _distributed_training(found: Figures) -> None:
    assert 0 < found["nats"] - found["entropy"] < 0.1


def _mixed_parameters(found: Figures) -> None:
    assert -0.02 < found["divergence"] < 0.12
    assert found["worst"] < 0.12


CHECKS: dict[str, Callable[[Figures], None]] = {
    "mnist": _mnist,
    "mixed_table": _mixed_table,
    "ising": _ising,
    "distributed_training": _distributed_training,
    "mixed_parameters": _mixed_parameters,
    "simulation_based_inference": _simulation_based_inference,
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = []
    if '"--picture"' in (FOLDER / f"{name}.py").read_text():
        pytest.importorskip("matplotlib").use("agg")
        picture = ["--picture", "picture.png"]
    CHECKS[name](module.main(["--quick", *picture]))
    if picture:
        assert (tmp_path / "picture.png").stat().st_size > 1000
    if name == "mnist":
        assert (tmp_path / "out" / "samples.png").stat().st_size > 1000
        assert (tmp_path / "out" / "completed.png").stat().st_size > 1000
