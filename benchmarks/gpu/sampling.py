"""Sections of the GPU benchmark about drawing: many rows, few rows, all contenders at one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case, cases_of
from benchmarks.contenders import SEED, Jacobi, Run, check_draws, sampler
from benchmarks.gpu import contenders
from benchmarks.gpu import model as expectation
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import peak_extra
from benchmarks.gpu.contenders import CHECKED, TOLERANCE
from benchmarks.precision import precision
from benchmarks.report import Row
from benchmarks.timing import median, ratio
from made_fast import MADE
from made_fast.sampling import Sampler

PRECISIONS_TRIED = ("ieee", "tf32")


def measure_judged(bench: Bench) -> None:
    """What the design has targets for: many rows at two precisions, and few rows."""
    for case in cases_of("gpu, many rows", quick=bench.quick):
        _add_many(bench, case)
    for case in cases_of("gpu, few rows", quick=bench.quick):
        _add_few(bench, case)


def measure_rest(bench: Bench) -> None:
    """The other shapes and batches, as far as the time goes."""
    for case in cases_of("gpu, rest", quick=bench.quick):
        (_add_few if case.rows == 1 else _add_many)(bench, case)


def _add_many(bench: Bench, case: Case) -> None:
    for name in PRECISIONS_TRIED:
        needs = 2 * bench.seconds
        bench.add("Samples", f"{case.name} {name}", lambda name=name: _many(bench, case, name), needs=needs)


def _add_few(bench: Bench, case: Case) -> None:
    bench.add("Latency", case.name, lambda: _few(bench, case))


def _right(bench: Bench, model: MADE, frozen: Sampler, rows: int, name: str) -> None:
    """Compares a draw with the model before anything is timed."""
    x = frozen.sample(rows, seed=SEED, backend=bench.backend)
    check_draws("ours", model, x, tolerance=TOLERANCE[name], rows=CHECKED)


def _many(bench: Bench, case: Case, name: str) -> Row:
    """Samples against one dense forward of as many rows, both at one precision."""
    model, frozen = bench.network(case)
    with precision(name):
        draw = sampler(frozen, case.rows, bench.backend, bench.seeds())
        _right(bench, model, frozen, case.rows, name)
        runs = {"sample": draw, **contenders.forwards(model, contenders.batches(case, bench.device))}
        times = bench.clock.measure(runs, seconds=bench.seconds)
        extra = peak_extra(draw, bench.device)
        launches = _launches(frozen, case.rows, bench)
    seconds = median(times["sample"])
    useful = 2 * frozen.macs * case.rows
    dense_rate = 2 * frozen.dense_macs * case.rows / median(times["dense"])
    row: Row = {
        "shape": case.shape,
        "rows": case.rows,
        "precision": name,
        "sample ms": 1e3 * seconds,
        "dense ms": 1e3 * median(times["dense"]),
        "sample / dense": ratio(times, "sample", "dense"),
        "sample / own forward": ratio(times, "sample", "own forward"),
        "useful TFLOP/s": 1e-12 * useful / seconds,
        "useful / dense rate": useful / seconds / dense_rate,
        "extra MiB": extra,
        "launches": launches,
    }
    return row | expectation.against(frozen, case.rows, name, seconds, bench.ceilings, bench.device)


def _few(bench: Bench, case: Case) -> Row:
    """Microseconds for each variable, and for each step that waits for the one before."""
    model, frozen = bench.network(case)
    _right(bench, model, frozen, case.rows, "ieee")
    forward = contenders.forwards(model, contenders.batches(case, bench.device))["dense"]
    runs = {"sample": sampler(frozen, case.rows, bench.backend, bench.seeds()), "dense": forward}
    times = bench.clock.measure(runs, seconds=bench.seconds / 2)
    seconds, events = median(times["sample"]), expectation.events(frozen)
    return {
        "shape": case.shape,
        "rows": case.rows,
        "microseconds": 1e6 * seconds,
        "microseconds per variable": 1e6 * seconds / case.features,
        "nanoseconds per event": 1e9 * seconds / events if events else float("nan"),
        "sample / dense": ratio(times, "sample", "dense"),
        "launches": _launches(frozen, case.rows, bench),
    }


def _launches(frozen: Sampler, rows: int, bench: Bench) -> int | str:
    """Kernels that one draw launches, as our launcher counts them; they are not run."""
    if bench.backend != "triton":
        return "–"
    from made_fast.backends.triton.launch import recorded

    with recorded() as launches:
        frozen.sample(rows, seed=1, backend="triton")
    return len(launches)


def _kernels(bench: Bench, draw: Run) -> int | str:
    """Kernels that one call runs, as CUPTI counts them."""
    from torch.profiler import ProfilerActivity, profile

    bench.clock.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        draw()
        bench.clock.wait()
    kernels = [event for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len([event for event in kernels if "Mem" not in event.name]) or "–"


def dependent(case: Case, device: torch.device) -> MADE:
    """A network whose variables depend on one another much more than those of fresh weights: Jacobi needs many passes."""
    torch.manual_seed(0)
    model = MADE(case.features, case.widths)
    with torch.no_grad():
        for layer in model.masked_layers:
            layer.weight.copy_(torch.randn(layer.weight.shape) * 2.5 / layer.weight.shape[1] ** 0.5)
    return model.to(device).eval()


def measure_contenders(bench: Bench, trained: Path | None) -> None:
    """All ways to draw one case: fresh weights, dependent ones, and a trained model if given."""
    (case,) = cases_of("gpu, contenders", quick=bench.quick)
    model, frozen = bench.network(case)
    _contest(bench, "Contenders", model, frozen, case.rows, compiled=True)
    if not bench.quick:
        model = dependent(case, bench.device)
        _contest(bench, "Contenders, dependent weights", model, model.sampler(), case.rows, compiled=False)
    if trained is not None:
        model = MADE.load(trained).to(bench.device).eval()
        _contest(bench, "Contenders, trained", model, model.sampler(), case.rows, compiled=False)


def _contest(bench: Bench, table: str, model: MADE, frozen: Sampler, rows: int, *, compiled: bool) -> None:
    """Every contender is built and checked by itself; those that are right take turns."""
    makers = contenders.samplers(model, frozen, rows, bench.backend, cuda=bench.cuda, compiled=compiled)
    runs: dict[str, Any] = {}

    def built(name: str) -> Row:
        run = makers[name]()
        x = run()
        bench.clock.wait()
        check_draws(name, model, x, tolerance=TOLERANCE["ieee"], rows=CHECKED)
        runs[name] = run
        return {}

    checks = f"{table}: checks"
    for name in makers:
        bench.add(checks, name, lambda name=name: built(name), needs=40 if "compile" in name else 5)
    bench.tables.pop(checks, None)
    if not bench.cuda:
        bench.skipped.append(f"{table}: CUDA graphs and torch.compile, which need a GPU")
    case = Case(model.features, model.hidden_features[0], len(model.hidden_features), rows)
    forward = contenders.forwards(model, contenders.batches(case, bench.device))["dense"]
    runs["dense forward"] = forward
    if bench.cuda:
        runs["dense forward, CUDA graph"] = contenders.captured(forward)
    if "ours" not in runs:
        return
    times = bench.clock.measure(runs, seconds=0.1 if bench.quick else 3 * bench.seconds)
    for name, run in runs.items():
        note = f"{run.passes} passes" if isinstance(run, Jacobi) else ""
        row = {"case": name, "ms": 1e3 * median(times[name]), "times ours": ratio(times, name, "ours"), "note": note}
        bench.tables.setdefault(table, []).append(row)
    if bench.cuda:
        bench.add(table, "kernels of one draw", lambda: _counted(bench, runs["ours"]), needs=2)


def _counted(bench: Bench, draw: Run) -> Row:
    return {"ms": "–", "times ours": "–", "note": f"{_kernels(bench, draw)}, as CUPTI counts"}
