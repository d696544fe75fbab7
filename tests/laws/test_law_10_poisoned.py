"""Law 10: what a kernel does not write stays NaN: memory is poisoned, and all of a request is written and nothing else."""

from typing import Any

import pytest
import torch
from drawing import draw_piece
from models import context_of, made

from made_fast import backends
from made_fast.programs.program import Affine, Program, Term, X


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_all_rows_are_written_and_nothing_else(engine: Any, dtype: torch.dtype) -> None:
    model = made("bernoulli", "residual_direct_context", dtype, 9)
    program, context = model.program(), context_of(model, 52)
    packed, module = engine.pack(program), backends.load(engine.backend)
    assert context is not None
    for rows in (0, 1, 2, 7, 8, 9, 24, 50):
        for with_log_prob in (True, False):
            out = torch.full((rows + 2, model.features), torch.nan, dtype=dtype, device=engine.device)
            log_prob = torch.full((rows + 2,), torch.nan, dtype=dtype, device=engine.device)
            written = log_prob[1:-1] if with_log_prob else None
            draw_piece(module, packed, out[1:-1], written, seed=3, context=context.to(engine.device), **engine.extra)
            assert ((out[1:-1] == 0) | (out[1:-1] == 1)).all()
            assert out[[0, -1]].isnan().all()
            assert log_prob[1:-1].isfinite().all() if with_log_prob else log_prob[1:-1].isnan().all()
            assert log_prob[[0, -1]].isnan().all()


def test_parameters_that_overflow_are_an_error_everywhere(engine: Any) -> None:
    """A parameter that is nan gives no sample: an error, never rows that look like samples."""
    mask = torch.ones(3, 3).tril(-1).bool()
    eye = torch.eye(3).bool()
    huge = Affine((Term(X, 3e38 * eye.float(), eye),), torch.full((3,), 3e38))
    difference = torch.zeros(3, 3)
    difference[2, :2] = torch.tensor([1.0, -1.0])
    # both hidden units overflow to inf where x = 1, and inf - inf is nan
    params = Affine((Term(2, difference, mask),), torch.tensor([50.0, 50.0, 0.0]))
    program = Program(3, 0, (huge, params), torch.arange(3), (1, 1, 1))
    with pytest.raises(FloatingPointError, match=r"nan"):
        engine.draw(program, 20, seed=0)
