"""Law 13: masses and probabilities stay in log space: what has a finite log-probability never gets ``-inf``, on any backend."""

from typing import Any

import pytest
import torch
from engines import names_of
from models import DOUBLE, SINGLE, Case, cases_of, drawn_by, dtypes_of, made
from torch import Tensor

from made_fast.outputs.normal import Normal
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


@drawn_by("allowed", cases=cases_of(options=["biases"]), quick={"mixed_finite-biases", "bernoulli-biases"}, interpreted=())
def test_values_that_are_improbable_but_possible(backend: str, case: Case) -> None:
    """A finite log-probability of -300 gives that log-weight and that log_prob."""
    model = case.make(DOUBLE, 4)
    if not any(each.size > 1 and each.num_params for each in model.conditionals):
        pytest.skip("all variables are real")
    with torch.no_grad():
        model.parameters_layer.bias.mul_(200 / model.parameters_layer.bias.abs().max())
    for dtype in dtypes_of(backend):
        own = model.to(dtype)
        for variable, each in enumerate(own.conditionals):
            values = each.values()
            if values is None:
                continue
            for value in values.tolist():
                drawn = own.sample_and_log_prob(2, seed=1, backend=backend, allowed={variable: {value}})
                nats = _log_prob_of(own, variable, value)
                if nats > -1e4:
                    assert drawn.log_weight.isfinite().all(), (variable, value, nats)
                    assert drawn.log_prob.isfinite().all(), (variable, value, nats)
                    torch.testing.assert_close(drawn.log_weight[0].double(), nats, rtol=1e-4, atol=1e-4)


def _log_prob_of(model: Any, variable: int, value: float) -> Tensor:
    params = model.double()(torch.stack([each.values()[0] if each.size else torch.zeros(()) for each in model.conditionals])[None].double())
    at = sum(each.num_params for each in model.conditionals[:variable])
    own = params[0, at : at + model.conditionals[variable].num_params].detach()
    return model.conditionals[variable].log_prob(own, torch.tensor(value, dtype=DOUBLE))
