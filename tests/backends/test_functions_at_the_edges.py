"""What engines make of numbers that are no ordinary ones, function by function: the same as torch.

Numbers below the least normal one may be taken for 0, before a function and after it.
"""

import importlib
import itertools
import math
from typing import Any

import pytest
import torch
from engines import ENGINES, Engine, names_of
from models import dtypes_of
from torch import Tensor

from made_fast import backends
from made_fast.masks.plan import plan_from_mask
from made_fast.outputs.point import PointConditional
from made_fast.programs.functions import FUNCTION_CODES, FUNCTIONS
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Program, Term

EDGES = [
    *(
        math.inf,
        -math.inf,
        math.nan,
        0.0,
        -0.0,
        1e-20,
        -1e-20,
        1e-37,
        -1e-37,
        1e-40,
        -1e-40,
        5e-324,
        0.5,
        -0.5,
        0.3,
        -0.3,
    ),
    *(16.6, -16.6, 20.5, -20.5, 87.0, -87.0, 88.2, -88.2, 88.6, -88.6, 104.0, -104.0, 708.0, -708.0, 746.0, -746.0),
    *(1e4, -1e4, 1e19, -1e19, 1e30, -1e30, 3e38, -3e38, 1e300, -1e300, 1.7e308, -1.7e308, 1e-300, -1e-300),
]
ROWS = {row.name: row for row in backends.BACKENDS}


def _edges(dtype: torch.dtype) -> Tensor:
    """(n, 1), without the sign of 0, which a sum loses."""
    return torch.tensor(EDGES, dtype=torch.float64).to(dtype)[:, None] + 0


def _expected(function: str, x: Tensor) -> list[Tensor]:
    """By torch, of the numbers and of those that are left where denormal ones are 0; and by torch in fp64.

    With AVX-512 torch's gelu of 16 fp32 numbers or more is nan at inf and inf at 3e38. elu and selu of torch 2.6 have
    exp(x) - 1, which is 0 at -1e-20: below 0 they are made of expm1.
    """
    tiny = torch.finfo(x.dtype).tiny
    given = (x, torch.where(x.abs() < tiny, x * 0, x))
    exact = FUNCTIONS[function](x.double())
    if function in {"elu", "selu"}:
        slope = FUNCTIONS[function](torch.tensor(-1e300, dtype=torch.float64)).abs()
        exact = torch.where(x < 0, slope * x.double().expm1(), exact)
    return [*(FUNCTIONS[function](each) for each in given), exact.to(x.dtype)]


def _same(found: Tensor, function: str, x: Tensor) -> Tensor:
    exact = 1e-8 if function == "softplus" else 1e-13  # torch's own is x from 20 on
    tolerances = {"rtol": 2e-6 if x.dtype == torch.float32 else exact, "equal_nan": True}
    tolerances["atol"] = 1e3 * torch.finfo(x.dtype).tiny  # what is lost with a denormal factor of a product
    return torch.stack([torch.isclose(found, each, **tolerances) for each in _expected(function, x)]).any(0)


def _pairs() -> list[object]:
    """Every backend that has masked products, with every function that it has."""
    return [
        pytest.param(*name.values, function, marks=name.marks, id=f"{name.id}-{function}")
        for name, function in itertools.product(names_of(), FUNCTIONS)
        if not ROWS[str(name.values[0])].functions or function in ROWS[str(name.values[0])].functions
    ]


@pytest.mark.parametrize(("backend", "function"), _pairs())
def test_functions_of_products(backend: str, function: str) -> None:
    row = ROWS[backend]
    mask = torch.ones(1, 1, dtype=torch.bool)
    isas = backends.load(row).build_config()["instruction_sets"] if backend == "cpp" else [None]
    for dtype, isa in itertools.product(dtypes_of(backend), isas):
        x, one = _edges(dtype), torch.ones(1, 1, dtype=dtype)
        more = {} if isa is None else {"isa": isa}
        wiring = mask if backend == "reference" else plan_from_mask(mask.numpy())
        found = backends.load(row).masked_linear(x, one, wiring, None, function, **more)
        same = _same(found, function, x)
        assert same.all(), (
            dtype,
            isa,
            x[~same].tolist(),
            found[~same].tolist(),
            FUNCTIONS[function](x)[~same].tolist(),
        )


@pytest.mark.skipif(ROWS["numba"].missing is not None, reason="numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_functions_of_numba(dtype: torch.dtype) -> None:
    """One by one: its products apply those of torch."""
    functions: Any = importlib.import_module("made_fast.backends.numba.functions")
    x = torch.tensor(EDGES, dtype=torch.float64).to(dtype)
    for function in functions.FUNCTIONS:
        code = FUNCTION_CODES[function]
        found = torch.tensor([functions.apply_function(code, each) for each in x.numpy()], dtype=dtype)
        same = _same(found, function, x)
        assert same.all(), (function, x[~same].tolist(), found[~same].tolist())


POINTS = {name: each for name, each in ENGINES.items() if "point" in (each.backend.outputs or ("point",))}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("engine", POINTS.values(), ids=POINTS)
def test_functions_of_units(engine: Engine, function: str) -> None:
    """While drawing: of context numbers that are handed on as they are. What is computed must be finite."""
    for dtype in dtypes_of(engine):
        one = torch.ones(1, 1, dtype=dtype)
        ops = (Affine((Term(CONTEXT, one, one.bool()),), None), Elementwise(2, function))
        program = Program(1, 1, ops, torch.arange(1), (1,), (PointConditional(),))
        x = _edges(dtype)
        x = x[torch.stack(_expected(function, x)).isfinite().all(0).all(1)]
        found, _ = engine.draw(program, len(x), seed=0, context=x)
        same = _same(found, function, x)
        assert same.all(), (dtype, x[~same].tolist(), found[~same].tolist(), FUNCTIONS[function](x)[~same].tolist())
