"""Variables that are computed, not drawn, and the functions that programs alone have, on every engine that has them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import backends
from made_fast.outputs.point import Point, PointConditional
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Program, Term, X
from made_fast.programs.schedule import build_schedule
from made_fast.requests.conditions import Between
from made_fast.sampling.sampler import Sampler

FEATURES, ROWS = 7, 53


def _inverse(dtype: torch.dtype, num_params: int) -> tuple[Program, Tensor, Tensor]:
    """x_d = z_d * exp(s_d(x)) + t_d(x), z from the context, with the log of 1 / exp(s_d) for two parameters."""
    generator = torch.Generator().manual_seed(3)
    masked = torch.ones(FEATURES, FEATURES).tril(-1).bool()
    shift, scale = (each * torch.randn(FEATURES, FEATURES, generator=generator) * masked for each in (0.3, 0.1))
    ops: list[Any] = [Affine((Term(X, scale.to(dtype), masked),), None)]  # 2
    ops += [Elementwise(2, "exp"), Multiply(3, CONTEXT), Affine((Term(X, shift.to(dtype), masked),), None)]  # 3, 4, 5
    ops += [Add(4, 5)]  # 6
    if num_params == 2:
        even, odd = (torch.eye(2 * FEATURES)[start::2].T for start in (0, 1))
        terms = (Term(6, even.to(dtype), even.bool()), Term(2, -odd.to(dtype), odd.bool()))
        ops += [Affine(terms, None)]
    conditionals = (PointConditional(num_params),) * FEATURES
    order, sizes = torch.arange(FEATURES), (num_params,) * FEATURES
    return Program(FEATURES, FEATURES, tuple(ops), order, sizes, conditionals), shift.to(dtype), scale.to(dtype)


@pytest.mark.parametrize("num_params", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_every_engine_computes_the_same_points(engine: Any, dtype: torch.dtype, num_params: int) -> None:
    if engine.backend.outputs and "point" not in engine.backend.outputs:
        pytest.skip(f"{engine.backend.name} says that it has no points")
    program, shift, scale = _inverse(dtype, num_params)
    z = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    packed = engine.pack(program)
    x, log_prob = engine.draw(program, ROWS, seed=5, context=z, packed=packed)
    again, _ = engine.draw(program, ROWS, seed=6, context=z, packed=packed)
    assert torch.equal(x, again)  # no noise comes in
    exact = x.double()
    back = (exact - exact @ shift.double().T) * torch.exp(-exact @ scale.double().T)
    torch.testing.assert_close(back, z.double(), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)
    expected = -(exact @ scale.double().T).sum(1) if num_params == 2 else torch.zeros(ROWS, dtype=torch.float64)
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-12)


def test_one_parameter_is_drawn_in_place() -> None:
    program, shift, scale = _inverse(torch.float32, 1)
    schedule = build_schedule(program)
    assert schedule.in_place
    below = FEATURES * (FEATURES - 1) // 2
    assert schedule.macs == 2 * below == int((shift != 0).sum() + (scale != 0).sum())


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_no_finite_number_is_an_error(engine: Any, bad: float) -> None:
    if engine.backend.outputs and "point" not in engine.backend.outputs:
        pytest.skip(f"{engine.backend.name} says that it has no points")
    program, _, _ = _inverse(torch.float64, 1)
    z = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    z[17, FEATURES - 1] = bad
    with pytest.raises(FloatingPointError, match="nan"):
        engine.draw(program, ROWS, seed=5, context=z, packed=engine.pack(program))


def test_given_values_are_kept() -> None:
    program, _, _ = _inverse(torch.float64, 1)
    sampler = Sampler(program, Point())
    z, given = torch.randn(5, FEATURES).double(), torch.zeros(FEATURES)
    observed = torch.arange(FEATURES) == 2
    found = sampler.sample(1, z, given=given, observed=observed)
    assert (found.x[..., 2] == 0).all()
    assert (found.log_weight == 0).all()


@pytest.mark.parametrize("name", ["temperature", "greedy"])
def test_decoding_has_no_meaning(name: str) -> None:
    sampler = Sampler(_inverse(torch.float64, 1)[0], Point())
    with pytest.raises(ValueError, match=f"{name} has no meaning"):
        sampler.sample(1, torch.zeros(2, FEATURES), **{name: 0.5 if name == "temperature" else True})


def test_allowed_has_no_meaning() -> None:
    sampler = Sampler(_inverse(torch.float64, 1)[0], Point())
    with pytest.raises(ValueError, match=r"allowed\[1\] has no meaning"):
        sampler.sample(1, torch.zeros(2, FEATURES), allowed={1: Between(0, 1)})


def test_triton_says_what_it_lacks() -> None:
    triton = next(each for each in backends.BACKENDS if each.name == "triton")
    if triton.missing is not None:
        pytest.skip(triton.missing)
    asked = {"device": torch.device(triton.devices[0]), "dtype": torch.float32}
    assert "no function 'exp'" in str(backends.why_not(triton, backends.Needs(functions={"exp"}, **asked)))
    assert "no output 'point'" in str(backends.why_not(triton, backends.Needs(outputs={"point"}, **asked)))
    assert backends.why_not(triton, backends.Needs(functions={"relu", "tanh"}, **asked)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("function", ["exp", "reciprocal"])
def test_functions_over_their_whole_range(engine: Any, function: str, dtype: torch.dtype) -> None:
    if engine.backend.functions and function not in engine.backend.functions:
        pytest.skip(f"{engine.backend.name} says that it has no {function}")
    last = 88.7 if dtype == torch.float32 else 709.7
    first = -87.0 if dtype == torch.float32 else -708.0
    points = torch.cat([torch.linspace(first, last, 997), torch.tensor([-1e-6, 1e-6, 1.0, 88.4, last])]).to(dtype)
    one = torch.ones(1, 1, dtype=dtype)
    ops = (Affine((Term(CONTEXT, one, None),), None), Elementwise(2, function), Affine((Term(3, one, None),), None))
    program = Program(1, 1, ops, torch.tensor([0]), (1,), (PointConditional(),))
    x, _ = engine.draw(program, len(points), seed=1, context=points[:, None], packed=engine.pack(program))
    true = (torch.exp if function == "exp" else torch.reciprocal)(points.double())
    error = ((x[:, 0].double() - true).abs() / true.abs()).max()
    assert error <= 8 * torch.finfo(dtype).eps


def test_exp_of_too_much_is_no_number(engine: Any) -> None:
    """It overflows to infinity as torch's does, and that is an error of the draw, not a large number."""
    if engine.backend.functions and "exp" not in engine.backend.functions:
        pytest.skip(f"{engine.backend.name} says that it has no exp")
    one = torch.ones(1, 1)
    ops = (Affine((Term(CONTEXT, one, None),), None), Elementwise(2, "exp"), Affine((Term(3, one, None),), None))
    program = Program(1, 1, ops, torch.tensor([0]), (1,), (PointConditional(),))
    packed = engine.pack(program)
    x, _ = engine.draw(program, 1, seed=1, context=torch.tensor([[-200.0]]), packed=packed)
    assert float(x) < 1e-37
    for large in (89.0, 200.0, 1e5):
        with pytest.raises(FloatingPointError):
            engine.draw(program, 1, seed=1, context=torch.tensor([[large]]), packed=packed)
