"""pytest-benchmark suite of forwards and training steps: ``pytest benchmarks --benchmark-only``."""

import pytest

from benchmarks.cases import Case, cases_of
from benchmarks.contenders import one_pass
from benchmarks.suites import training

CONTENDERS = (training.OURS, training.MASKED, training.DENSE, training.ONEDNN)
CASES = cases_of("pytest, training")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("what", ["forward", "step"])
def test_training(benchmark, case: Case, contender: str, what: str) -> None:  # type: ignore[no-untyped-def]
    benchmark.group = f"{what} {case.name}"
    model = case.model().train()
    forwards, learned = training.networks(model, compiled=False)
    x = case.some_rows()
    training.check(model, forwards, learned, x)
    network = forwards[contender]
    run = one_pass(network, x) if what == "forward" else training.step(network, learned[contender], x)
    benchmark.pedantic(run, rounds=10, iterations=1, warmup_rounds=2)
