"""pytest-benchmark suite: ``pytest benchmarks --benchmark-only``; ``--benchmark-json`` keeps the figures.

One group for each case. ``extra_info`` holds the useful multiply-adds a second and, for the sampler, the ratio to one
dense forward of the same rows, measured in turns in the same process.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import contenders
from benchmarks.cases import Case, cases_of
from benchmarks.contenders import SEED, Run, check_draws, one_pass
from benchmarks.timing import measure, ratio
from made_fast import MADE

OURS = ("cpp", "numba", "reference")
FORWARDS = {
    "dense forward": contenders.dense_network,
    "oneDNN forward": contenders.onednn_network,
    "masked pass": contenders.masked_network,
}
SAMPLERS: dict[str, Callable[[MADE, int], Run]] = {
    "naive": lambda model, rows: contenders.step_by_step(contenders.masked_network(model), model, rows),
    "naive, masks folded": lambda model, rows: contenders.step_by_step(contenders.dense_network(model), model, rows),
    "Jacobi iteration": contenders.Jacobi,
}


def _run(name: str, model: MADE, rows: int) -> Run:
    if name in OURS:
        return contenders.sampler(model.sampler(), rows, name)
    if name in SAMPLERS:
        return SAMPLERS[name](model, rows)
    return one_pass(FORWARDS[name](model), model.sample(rows, seed=SEED + 1))


@pytest.mark.parametrize("contender", ["cpp", "numba", *FORWARDS])
@pytest.mark.parametrize("case", cases_of("pytest, draws"), ids=lambda case: case.name)
def test_one_draw(benchmark, case: Case, contender: str) -> None:
    """One draw of all rows, or one forward of as many."""
    benchmark.group = case.name
    model = case.model()
    run = _run(contender, model, case.rows)
    result = run()
    if contender in OURS:
        check_draws(contender, model, result)
        times = measure({"sample": run, "dense": _run("dense forward", model, case.rows)}, seconds=0.3)
        benchmark.extra_info["sample / dense forward"] = str(ratio(times, "sample", "dense"))
    benchmark(run)
    benchmark.extra_info["macs"] = model.sampler().macs * case.rows


@pytest.mark.parametrize("contender", [*SAMPLERS, "reference", "cpp"])
def test_whole_samplers(benchmark, contender: str) -> None:
    """Whole samplers at (64, 512, 2), the naive one in full."""
    case = cases_of("whole samplers")[0]
    benchmark.group = f"samplers {case.name}"
    model = case.model()
    run = _run(contender, model, case.rows)
    check_draws(contender, model, run())
    benchmark.pedantic(run, rounds=5, iterations=1)
