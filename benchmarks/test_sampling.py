"""pytest-benchmark suite: ``pytest benchmarks --benchmark-only``; ``--benchmark-json`` keeps the figures.

One group for each case. ``extra_info`` holds the useful multiply-adds a second and, for the sampler, the ratio to one
dense forward of the same rows, measured in turns in the same process.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import contenders
from benchmarks.cases import Case
from benchmarks.timing import measure, ratio
from made_fast import MADE
from made_fast.testing import unexplained_differences

CASES = [Case(64, 512, 2, 1), Case(64, 512, 2, 960), Case(784, 512, 2, 1), Case(784, 512, 2, 960)]
MAKERS: dict[str, Callable[[MADE, int], contenders.Run]] = {
    "cpp": lambda model, rows: contenders.sampler(model, rows, "cpp"),
    "numba": lambda model, rows: contenders.sampler(model, rows, "numba"),
    "dense forward": contenders.dense,
    "oneDNN forward": contenders.dense_onednn,
    "masked pass": contenders.masked_pass,
}


@pytest.mark.parametrize("contender", MAKERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_draw(benchmark, case: Case, contender: str) -> None:
    """One draw of all rows, or one forward of as many."""
    benchmark.group = case.name
    model = case.model()
    run = MAKERS[contender](model, case.rows)
    result = run()
    if contender in ("cpp", "numba"):
        assert not unexplained_differences(model, result, seed=contenders.SEED).any()
        times = measure({"sample": run, "dense": contenders.dense(model, case.rows)}, seconds=0.3)
        benchmark.extra_info["sample / dense forward"] = str(ratio(times, "sample", "dense"))
    benchmark(run)
    benchmark.extra_info["macs"] = model.sampler().macs * case.rows


@pytest.mark.parametrize("contender", ["naive", "naive, masks folded", "Jacobi iteration", "reference", "cpp"])
def test_whole_samplers(benchmark, contender: str) -> None:
    """Whole samplers at (64, 512, 2), the naive one in full."""
    case = Case(64, 512, 2, 100)
    benchmark.group = f"samplers {case.name}"
    model = case.model()
    makers: dict[str, Callable[[MADE, int], contenders.Run]] = {
        "naive": contenders.naive,
        "naive, masks folded": contenders.naive_folded,
        "Jacobi iteration": contenders.jacobi,
        "reference": lambda model, rows: contenders.sampler(model, rows, "reference"),
        "cpp": lambda model, rows: contenders.sampler(model, rows, "cpp"),
    }
    run = makers[contender](model, case.rows)
    assert not unexplained_differences(model, run(), seed=contenders.SEED).any()
    benchmark.pedantic(run, rounds=5, iterations=1)
