"""Law 9: error against fp64 is at most twice the error of plain torch in the same dtype, plus one rounding.

That of the masked products stands in ``tests/layers/test_masked_linear.py``.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import SINGLE, context_of, made
from torch import Tensor

from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Program, Term


def _one_coin(function: str, dtype: torch.dtype) -> Program:
    """One variable whose logit is ``function(context)``."""
    one = torch.ones(1, 1, dtype=dtype)
    ops = (Affine((Term(CONTEXT, one, None),), None), Elementwise(2, function), Affine((Term(3, one, None),), None))
    return Program(1, 1, ops, torch.tensor([0]), (1,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "identity"])
def test_functions_round_as_well_as_torch(engines: dict[str, Any], function: str, dtype: torch.dtype) -> None:
    """Log-probabilities of one coin show the function: relative error at most twice torch's, plus one rounding.

    In fp64 torch itself is all there is to compare with, and a few roundings are allowed.
    """
    points = torch.cat([torch.linspace(-20, 20, 801), torch.tensor([-1e4, -104, -90, -1e-6, 0, 1e-6, 90, 104, 1e4])])
    context = points.to(dtype)[:, None]
    program, exact = _one_coin(function, dtype), torch.float64
    torch_params = FUNCTIONS[function](context)
    true_params = FUNCTIONS[function](context.to(exact))
    for name, engine in engines.items():
        if engine.backend.functions and function not in engine.backend.functions:
            continue  # and it says so, see test_point.py
        x, found = engine.draw(program, len(context), seed=1, context=context)
        sign = (2 * x - 1)[:, 0]
        true = F.logsigmoid(sign.to(exact) * true_params[:, 0])
        scale = true.abs().clamp_min(torch.finfo(dtype).tiny * 1e6)
        error = ((found - true).abs() / scale).max()
        torch_error = ((F.logsigmoid(sign * torch_params[:, 0]) - true).abs() / scale).max()
        few = (
            2e-13 if function == "exp" else 1e-14
        )  # logits to e^6.5 = 700 enter an exponential again, with their rounding
        budget = few if dtype == exact else 2 * torch_error + torch.finfo(dtype).eps
        assert error <= budget, (name, float(error), float(torch_error))


@pytest.mark.parametrize("name", ["deep", "residual_direct_context", "direct_deep"])
def test_log_prob_rounds_as_well_as_the_reference(engines: dict[str, Any], name: str) -> None:
    model = made("bernoulli", name, SINGLE, 9)
    context, program = context_of(model, 200), model.program()

    def error(x: Tensor, log_prob: Tensor) -> Tensor:
        double = None if context is None else context.double()
        return (log_prob - made("bernoulli", name, features=9).log_prob(x.double(), double)).abs().max()

    of_reference = error(*engines["reference-cpu"].draw(program, 200, seed=2, context=context))
    for engine_name, engine in engines.items():
        x, log_prob = engine.draw(program, 200, seed=2, context=context)
        rounding = torch.finfo(torch.float32).eps * log_prob.abs().max()
        assert error(x, log_prob) <= 2 * of_reference + rounding, engine_name
