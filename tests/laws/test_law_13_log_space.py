"""Law 13: masses and probabilities stay in log space: what has a finite log-probability never gets ``-inf``."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engines import names_of
from models import DOUBLE, SINGLE, dtypes_of, made
from torch import Tensor

from made_fast import MADE
from made_fast.programs.program import Affine, Program, Term, X
from made_fast.requests.conditions import Between


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_certain_variables_have_finite_log_probabilities(engine: Any, dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e5, -500.0, -30.0, 30.0, 500.0, 1e5], dtype=dtype)
    weight = torch.zeros(6, 6, dtype=dtype)
    program = Program(6, 0, (Affine((Term(X, weight, weight.bool()),), logits),), torch.arange(6), (1,) * 6)
    x, log_prob = engine.draw(program, 50, seed=0)
    assert torch.equal(x, (logits > 0).to(dtype).expand(50, 6))
    assert torch.allclose(log_prob.double(), torch.tensor(-2 * torch.tensor(-30.0).exp().item()).double(), rtol=1e-5)


TAILS = [(8.0, 9.0), (-12.0, -11.0), (20.0, None), (None, -15.0)]


@pytest.mark.parametrize("backend", names_of())
def test_tails_keep_their_mass(backend: str) -> None:
    """Of independent normals; the mass of both variables against the error function's logarithm in fp64."""
    for dtype in dtypes_of(backend):
        model = made("normal", "biases", dtype, 2)
        loc, scale = model.conditionals[0].parts(model.double()(torch.zeros(1, 2).double())[:, :2].detach())
        model = model.to(dtype)
        ends = [[None if end is None else float(loc + end * scale) for end in pair] for pair in TAILS]
        drawn = model.sample(3, seed=1, backend=backend, allowed=[{0: Between(*pair)} for pair in ends])
        assert drawn.log_weight.isfinite().all(), dtype
        expected = torch.tensor([_log_mass(*pair) for pair in TAILS], dtype=DOUBLE)
        tolerance = 2e-3 if dtype == SINGLE else 1e-6
        torch.testing.assert_close(drawn.log_weight[:, 0].double(), expected, rtol=tolerance, atol=tolerance)


def _log_mass(low: float | None, high: float | None) -> float:
    """Of a standard normal between two ends on one side of 0."""
    near, far = (low, high) if low is not None and low > 0 else (-float(high), None if low is None else -low)
    tail = [torch.special.log_ndtr(torch.tensor(-end, dtype=DOUBLE)) for end in (near, far) if end is not None]
    return float(tail[0] if len(tail) == 1 else tail[0] + torch.log1p(-(tail[1] - tail[0]).exp()))


# Made outside of log space, so that in fp32 exp(-104) and less is nothing.
NOT_YET = [(backend, "categorical") for backend in ("cpp", "reference", "triton")]
NOT_YET += [(backend, "mixture_of_logistics") for backend in ("cpp", "numba", "reference", "triton")]


def _pairs() -> Iterator[Any]:
    for output in ("bernoulli", "spin", "categorical", "mixture_of_logistics"):
        for backend in names_of():
            name, marks = str(backend.values[0]), list(backend.marks)
            if name == "triton":
                marks.append(pytest.mark.slow)
            if (name, output) in NOT_YET:
                marks.append(pytest.mark.xfail(strict=True, reason="its mass of allowed values underflows"))
            yield pytest.param(name, output, marks=marks, id=f"{name}-{output}")


@pytest.mark.parametrize(("backend", "output"), [*_pairs()])
def test_values_that_are_improbable_but_possible(backend: str, output: str) -> None:
    """A log-probability of some hundreds is that log-weight and that log_prob."""
    for dtype in dtypes_of(backend):
        model = made(output, "biases", dtype)
        with torch.no_grad():
            model.parameters_layer.bias.mul_(200 / model.parameters_layer.bias.abs().max())
        for variable, conditional in enumerate(model.conditionals):
            for value in conditional.values().tolist():
                drawn = model.sample_and_log_prob(2, seed=1, backend=backend, allowed={variable: {value}})
                assert drawn.log_prob.isfinite().all(), (variable, value)
                nats = conditional.log_prob(_params_of(model, variable), torch.tensor(value, dtype=DOUBLE))
                torch.testing.assert_close(drawn.log_weight[0].double(), nats, rtol=1e-4, atol=1e-4)


def _params_of(model: MADE, variable: int) -> Tensor:
    first = sum(each.num_params for each in model.conditionals[:variable])
    bias = model.program().affines[-1].bias
    assert bias is not None
    return bias.detach().double()[first : first + model.conditionals[variable].num_params]
