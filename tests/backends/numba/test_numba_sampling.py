"""The numba backend draws every output under conditions and decoding as the reference does, and shares what rows share."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from drawing import draw_piece
from models import OUTPUTS, context_of, made, valid
from quick import some
from torch import Tensor

from made_fast import MADE
from made_fast.programs.schedule import build_schedule
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Between, Conditions

numba = pytest.importorskip("made_fast.backends.numba", exc_type=ImportError)

N, EACH = 6, 20  # conditions, rows of each
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
EVERY_OUTPUT = pytest.mark.parametrize("output", OUTPUTS)


def _draw(module: Any, model: MADE, count: int = N * EACH, **arguments: Any) -> list[Tensor]:
    """x, log_prob and log_weight, from poisoned memory."""
    program = model.program()
    packed = module.pack(program, build_schedule(program))
    found = [torch.full((count, *shape), torch.nan, dtype=program.dtype) for shape in ((model.features,), (), ())]
    draw_piece(module, packed, found[0], found[1], log_weight=found[2], **{"seed": 4, "first_row": 3, **arguments})
    return found


def _allowed(model: MADE, row: int) -> dict[int, Any]:
    """Something for most variables, another thing for each row."""
    found: dict[int, Any] = {}
    for variable, conditional in enumerate(model.conditionals):
        values = conditional.values()
        if values is None:
            found[variable] = Between(-1.0 - row, 0.5 * row)
        elif (variable + row) % 3:
            found[variable] = {values[(row + i) % len(values)].item() for i in range(1 + row % 2)}
    return found


def _conditions(model: MADE, *, given: bool, allowed: bool, prefix: int | None = None) -> Conditions:
    """N rows; with ``prefix`` that many variables are given, the first in the order, else some."""
    dtype = next(model.parameters()).dtype
    x, observed = valid_of(model), torch.rand(N, model.features, generator=torch.Generator().manual_seed(1)) < 0.5
    if prefix is not None:
        observed = torch.zeros_like(observed)
        observed[:, model.order[:prefix]] = True
    queries = [_allowed(model, row) for row in range(N)] if allowed else None
    if allowed and given:  # no contradictions
        queries = [{v: q for v, q in own.items() if not observed[row, v]} for row, own in enumerate(queries or [])]
    found, _, _ = conditions_of(model.conditionals, x if given else None, observed if given else None, queries, N)
    assert found is not None
    return found.moved(torch.device("cpu"), dtype)


def valid_of(model: MADE) -> Tensor:
    """Possible values (N, D) of a model of ``OUTPUTS``."""
    name = next(name for name, output in OUTPUTS.items() if repr(output) == repr(model.output))
    return valid(name, N, features=model.features)


@pytest.mark.parametrize("output", some([*OUTPUTS], {"mixed", "embedding"}))
@DTYPES
@pytest.mark.parametrize("prefix", [0, 1, 3, 4])
def test_what_rows_share_changes_no_bit(output: str, dtype: torch.dtype, prefix: int) -> None:
    """Rows of one condition begin with copies of what its given variables led to; alone they begin from nothing."""
    for option in ("random", "context"):
        model = made(output, option, dtype)
        conditions, context = _conditions(model, given=True, allowed=False, prefix=prefix), context_of(model, N)
        together = _draw(numba, model, conditions=conditions, context=context, rows_per_condition=EACH)
        row = torch.arange(N * EACH) // EACH
        each = None if context is None else context[row]
        alone = _draw(numba, model, conditions=conditions.rows(row), context=each)
        pieces = [
            _draw(numba, model, b - a, conditions=conditions, context=context, rows_per_condition=EACH, row_offset=a)
            for a, b in ((0, 7), (7, 60), (60, N * EACH))
        ]
        for place in range(3):
            assert torch.equal(together[place], alone[place])
            assert torch.equal(torch.cat([piece[place] for piece in pieces]), together[place])
        assert torch.equal(
            together[0][:, model.order[:prefix]], valid_of(model).to(dtype)[row][:, model.order[:prefix]]
        )
        if prefix == model.features:
            assert torch.equal(together[1], together[2])


@pytest.mark.parametrize("output", some([*OUTPUTS], {"mixed"}))
def test_threads_and_named_rows_change_no_bit(output: str, set_threads: Any) -> None:
    model = made(output, "context", torch.float32)
    arguments = {
        "conditions": _conditions(model, given=True, allowed=True),
        "context": context_of(model, N),
        "rows_per_condition": EACH,
    }
    expected = _draw(numba, model, **arguments)
    for threads in (2, 7):
        set_threads(threads)
        for rows in (None, torch.arange(3, 3 + N * EACH)):
            found = _draw(numba, model, rows=rows, **arguments)
            assert all(torch.equal(own, theirs) for own, theirs in zip(found, expected, strict=True))


@DTYPES
def test_bernoulli_draws_are_the_same_with_and_without_conditions(dtype: torch.dtype) -> None:
    """Plain ones have a kernel of their own."""
    model = made("bernoulli", "direct", dtype)
    program = model.program()
    packed = numba.pack(program, build_schedule(program))
    assert packed.plain
    x, log_prob, log_weight = _draw(numba, model)
    plain = [torch.empty_like(x), torch.empty_like(log_prob)]
    draw_piece(numba, packed, *plain, seed=4, first_row=3)
    assert torch.equal(plain[0], x)
    assert torch.allclose(plain[1], log_prob, rtol=1e-5)
    assert not log_weight.any()


@EVERY_OUTPUT
@DTYPES
def test_a_parameter_that_is_nan_is_an_error(output: str, dtype: torch.dtype) -> None:
    model = made(output, "biases", dtype)
    program = model.program()
    last = program.ops[-1]
    broken = replace(program, ops=(*program.ops[:-1], replace(last, bias=torch.full_like(last.bias, torch.nan))))
    packed = numba.pack(broken, build_schedule(broken))
    with pytest.raises(FloatingPointError, match="nan"):
        draw_piece(numba, packed, torch.empty(3, model.features, dtype=dtype), None, seed=0, first_row=0)
