"""What this machine reaches: copying, products of matrices, launches. Everything else is held against it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.contenders import captured
from benchmarks.precision import PRECISIONS, precision
from benchmarks.report import Row
from benchmarks.timing import median


def measure(bench: Bench) -> None:
    """Fills the table "Ceilings" and ``bench.ceilings``: bytes and flops a second, seconds a launch."""
    bench.add("Ceilings", "copy, GB/s", lambda: _copy(bench))
    for name in PRECISIONS:
        bench.add("Ceilings", f"product {name}, TFLOP/s", lambda name=name: _product(bench, name))
    bench.add("Ceilings", "launch, microseconds", lambda: _launch(bench, graphed=False))
    if bench.cuda:
        bench.add("Ceilings", "launch within a graph, microseconds", lambda: _launch(bench, graphed=True))


def _best(bench: Bench, run: Callable[[], object], tries: int = 10) -> float:
    run()
    return median([bench.clock.time(run) for _ in range(tries)])


def _copy(bench: Bench) -> Row:
    size = 2**20 if bench.quick else 2**30  # bytes: many times the cache
    source = torch.rand(size // 4, device=bench.device)
    target = torch.empty_like(source)
    seconds = _best(bench, lambda: target.copy_(source))
    bench.ceilings["copy"] = 2 * size / seconds
    return {"value": 2e-9 * size / seconds, "how": f"{size >> 20} MiB, bytes read and written"}


def _product(bench: Bench, name: str) -> Row:
    size = 128 if bench.quick else 8192
    a, b = (torch.randn(size, size, device=bench.device).to(PRECISIONS[name].dtype) for _ in range(2))
    out = torch.empty_like(a)
    with precision(name):
        seconds = _best(bench, lambda: torch.matmul(a, b, out=out), 5)
    bench.ceilings[name] = 2 * size**3 / seconds
    return {"value": 2e-12 * size**3 / seconds, "how": f"torch.matmul of {size} x {size}, random numbers"}


def _launch(bench: Bench, *, graphed: bool) -> Row:
    count, x = 20 if bench.quick else 1000, torch.zeros(1, device=bench.device)

    def run() -> torch.Tensor:
        for _ in range(count):
            x.add_(1)
        return x

    seconds = _best(bench, captured(run) if graphed else run, 5) / count
    bench.ceilings["graph node" if graphed else "launch"] = seconds
    return {"value": 1e6 * seconds, "how": f"{count} additions of one number, one after another"}
