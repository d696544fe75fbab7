"""pytest-benchmark suite of forwards and training steps: ``pytest benchmarks --benchmark-only``."""

import pytest
import torch

from benchmarks import training
from benchmarks.cases import Case

CONTENDERS = (training.OURS, training.MASKED, training.DENSE, training.ONEDNN)
CASES = (Case(64, 512, 2, 256), Case(784, 512, 2, 256))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("what", ["forward", "step"])
def test_training(benchmark, case: Case, contender: str, what: str) -> None:  # type: ignore[no-untyped-def]
    benchmark.group = f"{what} {case.name}"
    model = case.model().train()
    found, learned = training.networks(model, compiled=False)
    x = (torch.rand(case.rows, case.features) < 0.13).float()
    training.check(model, found, learned, x)
    steps = {"forward": training.forward(found[contender], x), "step": None}
    run = steps[what] or training.step(found[contender], learned[contender], x)
    benchmark.pedantic(run, rounds=10, iterations=1, warmup_rounds=2)
