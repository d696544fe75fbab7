"""The benchmark for GPUs runs end to end on a CPU and says what it did not measure; its model counts what plans hold."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import WrongResult, contenders
from benchmarks.__main__ import main
from benchmarks.cases import CASES, Case, Group
from benchmarks.gpu import model as gpu_model
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import Clock
from benchmarks.timing import Ratio

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def _run(out: Path, *more: str, interpreted: bool) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--quick", "--out", str(out), *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", [pytest.param("triton", marks=needs_triton), "reference"])
def test_it_runs_from_end_to_end(tmp_path: Path, backend: str) -> None:
    text = _run(tmp_path, "--backend", backend, interpreted=backend == "triton")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failures"] == []
    assert {"Ceilings", "Samples", "Latency", "Contenders", "Masked forward", "Training step"} <= set(found["tables"])
    assert any("need a GPU" in line for line in found["left out"])
    assert text == (tmp_path / "gpu.md").read_text()
    assert text.rstrip().endswith("| not measured |")  # the targets come last


def test_a_wrong_contender_is_not_timed() -> None:
    model = Case(8, 20, 1, 1).model()
    x = contenders.step_by_step(contenders.dense_network(model), model, 40)()
    contenders.check_draws("right", model, x, tolerance=1e-5)
    for wrong, message in ((1 - x, r"drew \d+ of 320"), (x + 0.5, "neither 0 nor 1"), (x * torch.nan, "neither")):
        with pytest.raises(WrongResult, match=f"^naive .*{message}"):
            contenders.check_draws("naive", model, wrong, tolerance=1e-5)


def test_what_fails_is_written_down_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(torch.device("cpu"), deadline=float("inf"))
    bench = Bench(clock, "reference", True, 0.01)

    def fail() -> dict[str, float]:
        raise RuntimeError("no memory\nmore")

    bench.add("Table", "bad", fail)
    bench.add("Table", "good", lambda: {"value": 1.0})
    clock.deadline = 0.0
    bench.add("Table", "late", lambda: {"value": 2.0})
    assert bench.failures == ["Table, bad: RuntimeError: no memory"]
    assert bench.skipped == ["Table, late: the time was up"]
    assert bench.tables == {"Table": [{"case": "good", "value": 1.0}]}
    assert "no memory" in capsys.readouterr().err
    text = gpu_report.markdown(bench, {"device": "none"})
    assert "- Table, bad: RuntimeError: no memory" in text


def test_targets_are_judged() -> None:
    sample = {"case": "784x512x2-B131072 tf32", "shape": (784, 512, 2), "rows": 131072, "precision": "tf32"}
    rows = [{**sample, "sample / dense": Ratio(1.5, 1.4, 1.6)}]
    naive = {"case": "naive", "times ours": Ratio(250.0, 240.0, 260.0)}
    lines = gpu_report.judged({"Samples": rows, "Contenders": [naive]})
    verdicts = {line["target"]: line["verdict"] for line in lines}
    assert verdicts["sample / one dense forward, B=131072, tf32"] == "must met, goal missed"
    assert verdicts["naive eager / sample, 784x512x2, B=100"] == "goal met"
    assert verdicts["naive in a CUDA graph / sample"] == "not measured"
    missed = gpu_report.judged({"Samples": [{**sample, "sample / dense": Ratio(2.5, 2.4, 2.6)}]})
    assert missed[0]["verdict"] == "MISSED"


def test_jacobi_draws_what_the_naive_sampler_draws() -> None:
    model = Case(12, 30, 2, 1).model(one_fraction=0.4)
    jacobi = contenders.Jacobi(model, 50)
    assert torch.equal(jacobi(), contenders.step_by_step(contenders.masked_network(model), model, 50)())
    assert 1 <= jacobi.passes <= 13


@needs_triton
def test_the_model_counts_what_the_plan_holds() -> None:
    frozen = Case(16, 40, 2, 1).model().sampler()
    plan = gpu_model.plan_of(frozen)
    counts = gpu_model.count(plan, 16, 32)
    assert counts.flops == 2 * 32 * plan.bulk_macs
    assert counts.events == plan.num_events >= 16
    assert counts.chunks <= len(plan.task_weights) + len(plan.weights)
    assert counts.tasks == len(plan.tasks)
    few, many = (gpu_model.expected(counts, gpu_model.H200, rows, "ieee").one for rows in (1, 10**6))
    assert 0 < few < many
    slow = gpu_model.expected(counts, gpu_model.H100, 10**6, "ieee")
    assert slow.seconds >= gpu_model.expected(counts, gpu_model.H100, 10**6, "tf32").seconds > 0


@needs_triton
def test_the_model_is_printed_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "gpu, expected", Group(CASES["gpu, expected"].quick, ()))
    assert main(["gpu", "--model", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "H200: sample / dense" in text
    assert "16x40x2-B131072 tf32" in text
    assert (tmp_path / "gpu-model.md").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["gpu", "--out", str(tmp_path), "--backend", "reference"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
