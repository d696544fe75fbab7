"""The runner of the suite ``training`` at small sizes: its rows are complete, and it times nothing that is wrong."""

import pytest
import torch

from benchmarks import WrongResult
from benchmarks.cases import Case
from benchmarks.report import machine
from benchmarks.suites import training

CASE = Case(16, 32, 2, 24)


def test_tables_are_complete() -> None:
    result = {"machine": machine(), "cases": [training.measure_case(CASE, 0.01, compiled=False)], "memory": []}
    result["ensembles"] = [training.measure_ensembles(CASE, 0.01)]
    text = training.markdown(result)
    for column in ("step / W*mask", "forward / oneDNN", "32 masks, both / one", CASE.name):
        assert column in text


def test_a_wrong_contender_is_not_timed() -> None:
    model, x = CASE.model().train(), torch.zeros(24, 16)
    found, learned = training.networks(model, compiled=False)
    training.check(model, found, learned, x)
    found[training.DENSE] = lambda x: found[training.MASKED](x) + 1e-2
    with pytest.raises(WrongResult, match=r"dense is wrong"):
        training.check(model, found, learned, x)
