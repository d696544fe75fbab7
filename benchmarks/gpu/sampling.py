"""Sections of the GPU benchmark about drawing: many rows, few rows, all contenders at one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_contenders as contenders
from benchmarks import gpu_model
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.clock import median, peak_extra, precision
from benchmarks.gpu.contenders import TOLERANCE
from benchmarks.timing import ratio
from made_fast import MADE
from made_fast.sampling import Sampler

Shape = tuple[int, int, int]

JUDGED: tuple[Shape, ...] = ((784, 512, 2), (784, 1024, 2))
SHAPES: tuple[Shape, ...] = (
    *JUDGED,
    (16, 256, 2),
    (64, 512, 2),
    (784, 500, 1),
    (784, 8000, 1),
    (3072, 1024, 2),
)
MANY, SOME, FEW = (131_072, 16_384), (100, 1024), (1, 8, 32, 128)
TINY: Shape = (6, 8, 1)


def measure_judged(bench: Bench) -> None:
    """What the design has targets for: many rows at two precisions, and few rows."""
    shapes = (TINY,) if bench.quick else JUDGED
    for rows in (5,) if bench.quick else MANY:
        for shape in shapes:
            for name in ("ieee", "tf32"):
                _add_many(bench, shape, rows, name)
    for shape in shapes:
        for rows in (1, 2) if bench.quick else FEW:
            _add_few(bench, shape, rows)


def measure_rest(bench: Bench) -> None:
    """The other shapes and batches, as far as the time goes."""
    if bench.quick:
        return
    for shape in SHAPES:
        for rows in (*SOME, *MANY):
            for name in ("ieee", "tf32"):
                if shape not in JUDGED or rows in SOME:
                    _add_many(bench, shape, rows, name)
        if shape not in JUDGED:
            _add_few(bench, shape, 1)


def _add_many(bench: Bench, shape: Shape, rows: int, name: str) -> None:
    title = f"{'x'.join(map(str, shape))}-B{rows} {name}"
    bench.add("Samples", title, lambda: _many(bench, shape, rows, name), needs=2 * bench.seconds)


def _add_few(bench: Bench, shape: Shape, rows: int) -> None:
    bench.add("Latency", f"{'x'.join(map(str, shape))}-B{rows}", lambda: _few(bench, shape, rows))


def _many(bench: Bench, shape: Shape, rows: int, name: str) -> Row:
    """Samples against one dense forward of as many rows, both at one precision."""
    model, frozen = bench.network(shape)
    with precision(name):
        draw = contenders.ours(frozen, rows, bench.backend, bench.seeds())
        forward, inputs = contenders.dense(model, rows)
        seed = contenders.SEED
        x = frozen.sample(rows, seed=seed, backend=bench.backend)
        contenders.check("ours", model, x, tolerance=TOLERANCE[name], seed=seed)
        del x
        runs = {"sample": draw, "dense": forward, "own forward": contenders.own_forward(model, inputs)}
        times = bench.clock.measure(runs, seconds=bench.seconds)
        extra = peak_extra(draw, bench.device)
        launches = _launches(frozen, rows, bench)
    seconds = median(times["sample"])
    useful = 2 * frozen.macs * rows
    row: Row = {
        "shape": shape,
        "rows": rows,
        "precision": name,
        "sample ms": 1e3 * seconds,
        "dense ms": 1e3 * median(times["dense"]),
        "sample / dense": ratio(times, "sample", "dense"),
        "sample / own forward": ratio(times, "sample", "own forward"),
        "useful TFLOP/s": 1e-12 * useful / seconds,
        "useful / dense rate": 2 * frozen.dense_macs * rows / median(times["dense"]),
        "extra MiB": extra,
        "launches": launches,
    }
    row["useful / dense rate"] = useful / seconds / row["useful / dense rate"]
    return row | gpu_model.against(frozen, rows, name, seconds, bench.ceilings, bench.device)


def _few(bench: Bench, shape: Shape, rows: int) -> Row:
    """Microseconds for each variable, and for each step that waits for the one before."""
    model, frozen = bench.network(shape)
    draw = contenders.ours(frozen, rows, bench.backend, bench.seeds())
    forward, _ = contenders.dense(model, rows)
    x = frozen.sample(rows, seed=contenders.SEED, backend=bench.backend)
    contenders.check("ours", model, x, tolerance=TOLERANCE["ieee"])
    times = bench.clock.measure({"sample": draw, "dense": forward}, seconds=bench.seconds / 2)
    seconds, events = median(times["sample"]), gpu_model.events(frozen)
    return {
        "shape": shape,
        "rows": rows,
        "microseconds": 1e6 * seconds,
        "microseconds per variable": 1e6 * seconds / shape[0],
        "nanoseconds per event": 1e9 * seconds / events if events else float("nan"),
        "sample / dense": ratio(times, "sample", "dense"),
        "launches": _launches(frozen, rows, bench),
    }


def _launches(frozen: Sampler, rows: int, bench: Bench) -> int | str:
    """Kernels that one draw launches, as our launcher counts them; they are not run."""
    if bench.backend != "triton":
        return "–"
    from made_fast.backends.triton.launch import recorded

    with recorded() as launches:
        frozen.sample(rows, seed=1, backend="triton")
    return len(launches)


def _kernels(bench: Bench, draw: contenders.Draw) -> int | str:
    """Kernels that one call runs, as CUPTI counts them."""
    from torch.profiler import ProfilerActivity, profile

    bench.clock.wait()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        draw()
        bench.clock.wait()
    kernels = [event for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len([event for event in kernels if "Mem" not in event.name]) or "–"


def dependent(shape: Shape, device: torch.device) -> MADE:
    """A network whose variables depend on one another much more than those of fresh weights: Jacobi needs many passes."""
    torch.manual_seed(0)
    model = MADE(shape[0], (shape[1],) * shape[2])
    with torch.no_grad():
        for layer in model.masked_layers:
            layer.weight.copy_(torch.randn(layer.weight.shape) * 2.5 / layer.weight.shape[1] ** 0.5)
    return model.to(device).eval()


def measure_contenders(bench: Bench, trained: Path | None) -> None:
    """All ways to draw, at (784, 512, 2) with 100 rows: fresh weights, dependent ones, and a trained model if given."""
    shape, rows = (TINY, 3) if bench.quick else ((784, 512, 2), 100)
    model, frozen = bench.network(shape)
    _contest(bench, "Contenders", model, frozen, rows, compiled=True)
    if not bench.quick:
        model = dependent(shape, bench.device)
        _contest(bench, "Contenders, dependent weights", model, model.sampler(), rows, compiled=False)
    if trained is not None:
        model = MADE.load(trained).to(bench.device).eval()
        _contest(bench, "Contenders, trained", model, model.sampler(), rows, compiled=False)


def _contest(bench: Bench, table: str, model: MADE, frozen: Sampler, rows: int, *, compiled: bool) -> None:
    """Every contender is built and checked by itself; those that are right take turns."""
    makers = contenders.samplers(model, frozen, rows, bench.backend, cuda=bench.cuda, compiled=compiled)
    runs: dict[str, Any] = {}

    def built(name: str) -> Row:
        run = makers[name]()
        x = run()
        bench.clock.wait()
        contenders.check(name, model, x, tolerance=TOLERANCE["ieee"])
        runs[name] = run
        return {}

    checks = f"{table}: checks"
    for name in makers:
        bench.add(checks, name, lambda name=name: built(name), needs=40 if "compile" in name else 5)
    bench.tables.pop(checks, None)
    if not bench.cuda:
        bench.skipped.append(f"{table}: CUDA graphs and torch.compile, which need a GPU")
    forward, _ = contenders.dense(model, rows)
    runs["dense forward"] = forward
    if bench.cuda:
        runs["dense forward, CUDA graph"] = contenders.captured(forward)
    if "ours" not in runs:
        return
    times = bench.clock.measure(runs, seconds=0.1 if bench.quick else 3 * bench.seconds, min_rounds=5)
    for name, run in runs.items():
        note = f"{run.passes} passes" if isinstance(run, contenders.Jacobi) else ""
        row = {"case": name, "ms": 1e3 * median(times[name]), "times ours": ratio(times, name, "ours"), "note": note}
        bench.tables.setdefault(table, []).append(row)
    if bench.cuda:
        bench.add(table, "kernels of one draw", lambda: _counted(bench, runs["ours"]), needs=2)


def _counted(bench: Bench, draw: contenders.Draw) -> Row:
    return {"ms": "–", "times ours": "–", "note": f"{_kernels(bench, draw)}, as CUPTI counts"}
