"""Law 1: the Jacobian of the parameters with respect to x is zero exactly where the order says so, for every option."""

import functools
from typing import Any

import pytest
import torch
from models import DOUBLE, SINGLE_OPTIONS, Case, masks_of
from torch import Tensor

from made_fast import MADE, masks
from made_fast.programs.dependencies import dependencies
from made_fast.programs.program import Program


def _jacobian(program: Program, points: int = 30) -> tuple[Tensor, Tensor]:
    """Largest |d parameter / d input unit| (P, U) and |d parameter / d context| (P, C) over some points."""
    units = sum(program.input_units)
    generator = torch.Generator().manual_seed(1)
    point = 2 * torch.randn(points, units, dtype=DOUBLE, generator=generator)
    context = torch.randn(points, program.context_features, dtype=DOUBLE, generator=generator)
    jacobian = torch.func.vmap(torch.func.jacrev(functools.partial(_one_row, program), (0, 1)))
    by_units, by_context = (each.abs().amax(0) for each in jacobian(point, context))
    return by_units, by_context


def _one_row(program: Program, units: Tensor, context: Tensor) -> Tensor:
    return program.evaluate_units(units[None], context[None])[0]


def _by_variable(found: Tensor, program: Program) -> Tensor:
    """Whether any parameter of a variable (row) has it by any unit of another (column)."""
    rows = torch.stack([part.any(0) for part in found.split(list(program.params_per_variable))])
    return torch.stack([part.any(1) for part in rows.split(list(program.input_units), 1)], 1)


def _loses_nothing(options: dict[str, Any], model: MADE) -> bool:
    """Whether every connection that the order allows is there."""
    wide = options["hidden_features"] and min(options["hidden_features"]) >= model.features
    return model.direct or bool(wide and model.ensemble is None and "degrees" not in options)


def test_jacobian_is_zero_exactly_where_the_order_says(case: Case) -> None:
    """With a function that is nowhere flat: of relu some units may be 0 at all points."""
    model = case.make(activation="tanh")
    options = SINGLE_OPTIONS.get(case.option, {"hidden_features": ()})
    for mask in masks_of(model):
        program, rank = model.program(mask=mask), masks.rank_of(model.order_of(mask))
        by_units, by_context = _jacobian(program)
        earlier = (
            rank.repeat_interleave(torch.tensor(program.input_units))[None, :]
            < rank.repeat_interleave(torch.tensor(program.params_per_variable))[:, None]
        )
        assert not by_units[~earlier].any()
        assert (by_context > 0).all(), "context must reach every parameter"
        assert torch.equal(_by_variable(by_units > 0, program), torch.from_numpy(dependencies(program)))
        if _loses_nothing(options, model):
            assert torch.equal(by_units > 0, earlier)


def test_the_program_computes_what_the_model_computes(case: Case) -> None:
    """So that what holds for one holds for the other; ``check`` says the same of the masks."""
    model = case.make()
    model.check()
    x = torch.stack(
        [each.values()[-1:].repeat(7) if each.size else torch.randn(7).double() for each in model.conditionals]
    )
    context = torch.randn(7, model.context_features).double() if model.context_features else None
    for mask in masks_of(model):
        found = model.program(mask=mask).evaluate(x.T, context)
        torch.testing.assert_close(found, model(x.T, context, mask=mask).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("widths", [(1,), (2, 3), (40, 40, 40)])
@pytest.mark.parametrize("degrees", ["even", "random"])
def test_context_reaches_every_variable(degrees: str, widths: tuple[int, ...]) -> None:
    for seed in range(3):
        options: dict[str, Any] = {"degrees": degrees, "order": "random", "seed": seed, "activation": "tanh"}
        model = MADE(6, widths, context_features=2, **options).double()
        assert (_jacobian(model.program())[1] > 0).all()


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("context", [0, 2])
def test_smallest_models(features: int, context: int) -> None:
    for hidden in ((), (1,), (5,), (5, 5)):
        model = MADE(features, hidden, context_features=context, direct=True, activation="tanh").double()
        by_units, by_context = _jacobian(model.program())
        assert torch.equal(by_units > 0, torch.ones(features, features).tril(-1).bool())
        assert (by_context > 0).all()
