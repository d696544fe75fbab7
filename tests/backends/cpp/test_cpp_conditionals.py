"""The compiled engine draws every conditional as the reference does: paths, instruction sets, conditions, decoding."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from drawing import draw_piece
from quick import some
from torch import Tensor

from made_fast import MADE, backends, build_config
from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.mixtures import MixtureOfLogisticsConditional, MixtureOfNormalsConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.program import CONTEXT, Affine, Program, Term
from made_fast.programs.schedule import build_schedule
from made_fast.requests.conditions import Conditions

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")

CONDITIONALS: dict[str, Conditional] = {
    "bernoulli": BernoulliConditional(),
    "spin": SpinConditional(),
    "categorical": CategoricalConditional(7),
    "categorical_large": CategoricalConditional(200),
    "one_category": CategoricalConditional(1),
    "normal": NormalConditional(),
    "mixture_of_normals": MixtureOfNormalsConditional(4),
    "mixture_of_logistics": MixtureOfLogisticsConditional(3),
    "two_levels": MixtureOfLogisticsConditional(2, 2),
}
DECODINGS = {
    "plain": None,
    "cool": Decoding(temperature=0.6),
    "hot": Decoding(temperature=3.0),
    "greedy": Decoding(greedy=True),
}
SUM = {torch.float32: 2e-5, torch.float64: 1e-12}
ROWS = 300


def _cpp() -> Any:
    return importlib.import_module("made_fast.backends.cpp")


def _paths() -> Iterator[dict[str, Any]]:
    for isa in _cpp().build_config()["instruction_sets"]:
        for rows_at_once in (1, 5, 0):
            yield {"isa": isa, "rows_at_once": rows_at_once}


def _alone(conditional: Conditional, dtype: torch.dtype) -> Program:
    """One variable whose parameters are the context."""
    size = conditional.num_params
    eye = torch.eye(size, dtype=dtype)
    ops = (Affine((Term(CONTEXT, eye, None),), None),)
    return Program(1, size, ops, torch.tensor([0]), (size,), (conditional,))


def _params(conditional: Conditional, rows: int, dtype: torch.dtype, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(conditional.num_params)
    return (scale * torch.randn(rows, conditional.num_params, generator=generator, dtype=torch.float64)).to(dtype)


def _draw(backend: str, packed: Any, rows: int, features: int, dtype: torch.dtype, **arguments: Any) -> list[Tensor]:
    """x, log_prob and log_weight, from poisoned memory."""
    found = [torch.full((rows, features), torch.nan, dtype=dtype)]
    found += [torch.full((rows,), torch.nan, dtype=dtype) for _ in range(2)]
    module = importlib.import_module(f"made_fast.backends.{backend}")
    arguments = {"seed": 3, "first_row": 5, **arguments}
    draw_piece(module, packed, found[0], found[1], log_weight=found[2], **arguments)
    return found


def _packed(program: Program) -> tuple[Any, Any]:
    schedule = build_schedule(program)
    both = [importlib.import_module(f"made_fast.backends.{name}") for name in ("cpp", "reference")]
    first, second = (module.pack(program, schedule) for module in both)
    return first, second


def _nearly(found: Tensor, expected: Tensor, discrete: bool, dtype: torch.dtype) -> None:
    assert not found.isnan().any()
    if discrete:  # a uniform may lie within rounding of a threshold
        assert (found != expected).float().mean() <= (0.005 if dtype == torch.float32 else 0)
    else:
        tolerance = 1e-4 if dtype == torch.float32 else 1e-10
        assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


def _check_alone(
    conditional: Conditional, dtype: torch.dtype, params: Tensor, conditions: Conditions | None, **more: Any
) -> None:
    program = _alone(conditional, dtype)
    native, reference = _packed(program)
    shared = {"context": params, "conditions": conditions, **more}
    x, _, log_weight = _draw("reference", reference, len(params), 1, dtype, **shared)
    first: list[Tensor] = []
    for path in _paths():
        found = _draw("cpp", native, len(params), 1, dtype, **shared, **path)
        _nearly(found[0], x, conditional.size > 0, dtype)
        exact = conditional.log_prob(params.double(), found[0][:, 0].double())
        slack = SUM[dtype] * (1 + exact.abs().clamp(max=1e30)) * 10
        assert (((found[1].double() - exact).abs() <= slack) | (found[1] == exact)).all(), path
        same = (found[0] == x)[:, 0] if conditional.size else slice(None)
        expected = log_weight[same].double()
        near = (found[2][same].double() - expected).abs() <= SUM[dtype] * 20 * (1 + expected.abs())
        assert (near | (found[2][same] == expected)).all(), path
        first = first if first and path["rows_at_once"] != 1 else found
        for one, other in zip(found, first, strict=True):
            assert torch.equal(one, other), path


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_draws_are_those_of_the_reference(
    conditional: Conditional, decoding: Decoding | None, dtype: torch.dtype
) -> None:
    _check_alone(conditional, dtype, _params(conditional, ROWS, dtype), None, decoding=decoding)


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", [1e3, 1e30])
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_huge_parameters_give_numbers(conditional: Conditional, size: float, dtype: torch.dtype) -> None:
    native, _ = _packed(_alone(conditional, dtype))
    params = _params(conditional, ROWS, dtype, size)
    for path in _paths():
        x, log_prob, _ = _draw("cpp", native, ROWS, 1, dtype, context=params, **path)
        assert torch.isfinite(x).all()
        assert conditional.valid(x).all()
        assert not log_prob.isnan().any()
        assert (log_prob < torch.inf).all()


def _allowed(conditional: Conditional, rows: int, dtype: torch.dtype) -> Conditions:
    """Flags or bounds, different for each of ``rows`` conditions; some allow everything."""
    generator = torch.Generator().manual_seed(1)
    bounds = torch.tensor([-torch.inf, torch.inf], dtype=dtype).repeat(rows, 1, 1)
    support = torch.ones(rows, conditional.size, dtype=torch.uint8)
    if conditional.size:
        support = (torch.rand(rows, conditional.size, generator=generator) < 0.4).to(torch.uint8)
        support[torch.arange(rows), torch.randint(conditional.size, (rows,), generator=generator)] = 1
        support[::5] = 1
    else:
        ends = 6 * torch.randn(rows, 1, 2, generator=generator, dtype=torch.float64).to(dtype)
        bounds[:] = ends.sort(-1).values
        bounds[::5, :, 0], bounds[::3, :, 1] = -torch.inf, torch.inf
        bounds[7] = 2.5
    return Conditions(None, None, support, bounds, torch.ones(1, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_allowed_values(conditional: Conditional, dtype: torch.dtype) -> None:
    rows = 150
    conditions = _allowed(conditional, rows, dtype)
    params = _params(conditional, rows, dtype)
    _check_alone(conditional, dtype, params, conditions, rows_per_condition=1)
    native, _ = _packed(_alone(conditional, dtype))
    x = _draw("cpp", native, rows, 1, dtype, context=params, conditions=conditions)[0][:, 0]
    values = conditional.values()
    if values is None:
        assert conditions.bounds is not None
        assert ((x >= conditions.bounds[:, 0, 0]) & (x <= conditions.bounds[:, 0, 1])).all()
    else:
        assert conditions.support is not None
        chosen = (values.to(dtype) == x[:, None]).to(torch.uint8)
        assert ((chosen & conditions.support).sum(1) == 1).all()


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
def test_allowed_values_far_from_all_mass(dtype: torch.dtype) -> None:
    """Bounds in a tail keep their digits, however far out; the mass is that of an exponential tail."""
    conditional = NormalConditional()
    params = torch.tensor([[0.0, 0.5]], dtype=dtype).expand(4, 2).contiguous()
    bounds = torch.tensor([[8.0, 9.0], [-12.0, -11.0], [1e4, 2e4], [-2e4, -1e4]], dtype=dtype)[:, None]
    conditions = Conditions(None, None, torch.ones(4, 0, dtype=torch.uint8), bounds, torch.ones(1, dtype=torch.uint8))
    _check_alone(conditional, dtype, params, conditions)
    native, _ = _packed(_alone(conditional, dtype))
    x, _, log_weight = _draw("cpp", native, 4, 1, dtype, context=params, conditions=conditions)
    torch.testing.assert_close(x[2:, 0], torch.tensor([1e4, -1e4], dtype=dtype), rtol=1e-6, atol=0)
    z = 1e4 / (torch.nn.functional.softplus(torch.tensor(0.5, dtype=torch.float64)) + conditional.floor)
    mass = -0.5 * z**2 - torch.log(z) - LOG_SQRT_2_PI
    torch.testing.assert_close(log_weight[2:].double(), mass.expand(2), rtol=1e-6, atol=0)
    assert (log_weight[:2] < -30).all()


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
@pytest.mark.parametrize(
    "decoding",
    [
        *(Decoding(top_k=k) for k in (1, 3, 199, 200, 500)),
        *(Decoding(top_p=p) for p in (1e-6, 0.3, 0.9)),
        Decoding(top_k=20, top_p=0.7, temperature=2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", some(["categorical", "categorical_large"], {"categorical"}))
def test_top_k_and_top_p(name: str, decoding: Decoding, dtype: torch.dtype) -> None:
    conditional = CONDITIONALS[name]
    params = _params(conditional, ROWS, dtype)
    _check_alone(conditional, dtype, params, None, decoding=decoding)
    ties = params.round()  # among equals the lower number stays
    if decoding.top_p == 1:
        _check_alone(conditional, dtype, ties, None, decoding=decoding)


MIXED = Mixed(
    [
        ("bernoulli", 3),
        {"name": "categorical", "sizes": 5},
        "spin",
        {"name": "categorical", "sizes": 17, "embedding": 3},
        "normal",
        ({"name": "mixture_of_logistics", "components": 2, "levels": 16}, 2),
        {"name": "mixture_of_normals", "components": 3},
        ({"name": "categorical", "sizes": 2, "embedding": 2}, 2),
    ]
)
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mixed": (MIXED, {"hidden_features": (40, 30), "order": "random"}),
    "mixed_direct_context": (MIXED, {"hidden_features": (20,), "direct": True, "context_features": 3}),
    "mixed_residual": (MIXED, {"hidden_features": (24, 24, 24), "residual": True, "order": "reversed"}),
    "mixed_without_hidden": (MIXED, {"hidden_features": (), "direct": True}),
    "spin": ("spin", {"hidden_features": (20,), "direct": True}),
    "bernoulli": ("bernoulli", {"hidden_features": (20,), "order": "random"}),
    "normal": ("normal", {"hidden_features": (20,), "degrees": "random"}),
    "categorical": ({"name": "categorical", "sizes": 10}, {"hidden_features": (70, 66), "degrees": "random"}),
    "categorical_direct": ({"name": "categorical", "sizes": 10}, {"hidden_features": (70,), "direct": True}),
    "categorical_belief_network": ({"name": "categorical", "sizes": 9}, {"hidden_features": (), "direct": True}),
}


def _network(name: str, dtype: torch.dtype) -> MADE:
    output, options = NETWORKS[name]
    model = MADE(12, output=output, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return model.to(dtype)


def _context(model: MADE, rows: int, dtype: torch.dtype) -> Tensor | None:
    if not model.context_features:
        return None
    return torch.randn(rows, model.context_features, generator=torch.Generator().manual_seed(2), dtype=dtype)


def _given(model: MADE, rows: int, dtype: torch.dtype, start: int, share: float) -> Conditions:
    """The first ``start`` variables in the order observed everywhere, of the rest a share, and half the rest constrained."""
    generator = torch.Generator().manual_seed(4)
    given = model.to(torch.float64).sample(rows, _one_context(model), seed=9, backend="reference")
    given = given.reshape(rows, model.features).to(dtype)
    model.to(dtype)
    observed = torch.rand(rows, model.features, generator=generator) < share
    observed[:, model.order[:start]] = True
    sizes = sum(each.size for each in model.conditionals)
    support = torch.ones(rows, sizes, dtype=torch.uint8)
    bounds = torch.tensor([-torch.inf, torch.inf], dtype=dtype).repeat(rows, model.features, 1)
    constrained = torch.zeros(model.features, dtype=torch.uint8)
    first = 0
    for variable, each in enumerate(model.conditionals):
        if variable % 2:
            constrained[variable] = 1
            free = ~observed[:, variable]
            support[free, first : first + each.size // 2] = 0
            bounds[free, variable] = torch.tensor([-0.5, 2.0], dtype=dtype)
        first += each.size
    return Conditions(given, observed.to(torch.uint8), support, bounds, constrained)


def _one_context(model: MADE) -> Tensor | None:
    return torch.ones(1, model.context_features, dtype=torch.float64) if model.context_features else None


def _same_until_they_part(found: Tensor, expected: Tensor, order: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows agree up to a first difference that rounding explains; returns the rows that agree throughout."""
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    differs = ~torch.isclose(found, expected, rtol=tolerance, atol=tolerance)[:, order]
    assert differs.any(1).float().mean() <= (0.06 if dtype == torch.float32 else 0)
    return ~differs.any(1)


@pytest.mark.parametrize("dtype", SUM, ids=["fp32", "fp64"])
@pytest.mark.parametrize("how", ["plain", "cool", "given", "prefix"])
@pytest.mark.parametrize("name", some([*NETWORKS], {"mixed_direct_context", "categorical", "bernoulli"}))
def test_networks(name: str, how: str, dtype: torch.dtype) -> None:
    model = _network(name, dtype)
    program, per_condition = model.program(), 10
    native, reference = _packed(program)
    count = 12
    conditions = {"given": (0, 0.3), "prefix": (8, 0.1)}.get(how)
    shared: dict[str, Any] = {
        "context": _context(model, count, dtype),
        "rows_per_condition": per_condition,
        "decoding": DECODINGS["cool"] if how == "cool" else None,
        "conditions": None if conditions is None else _given(model, count, dtype, *conditions),
    }
    rows = count * per_condition
    expected = _draw("reference", reference, rows, 12, dtype, **shared)
    for isa in _cpp().build_config()["instruction_sets"]:
        found = _draw("cpp", native, rows, 12, dtype, **shared, isa=isa, rows_at_once=1)
        same = _same_until_they_part(found[0], expected[0], model.order, dtype)
        for one, other in zip(found[1:], expected[1:], strict=True):
            tolerance = 1e-3 if dtype == torch.float32 else 1e-9
            assert torch.allclose(one[same], other[same], rtol=tolerance, atol=tolerance)
        for rows_at_once in (0, 3, 17, 40):
            for one, other in zip(
                _draw("cpp", native, rows, 12, dtype, **shared, isa=isa, rows_at_once=rows_at_once), found, strict=True
            ):
                assert torch.equal(one, other), (isa, rows_at_once)
            part = _draw("cpp", native, 61, 12, dtype, **shared, isa=isa, rows_at_once=rows_at_once, row_offset=33)
            for one, other in zip(part, found, strict=True):
                assert torch.equal(one, other[33:94]), (isa, rows_at_once)


@pytest.mark.parametrize("name", ["mixed", "categorical"])
def test_threads_do_not_matter(name: str, set_threads: Any) -> None:
    model = _network(name, torch.float32)
    native, _ = _packed(model.program())
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(_draw("cpp", native, 30_000, 12, torch.float32))
        for one, other in zip(found[0], found[-1], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_parameters_that_are_nan_are_an_error(conditional: Conditional) -> None:
    native, _ = _packed(_alone(conditional, torch.float32))
    params = _params(conditional, 40, torch.float32)
    params[17, -1] = torch.nan
    for path in _paths():
        with pytest.raises(FloatingPointError, match=r"nan"):
            _draw("cpp", native, 40, 1, torch.float32, context=params, **path)


def test_scratch_stays_small_with_many_categories() -> None:
    model = MADE(784, (512,), output={"name": "categorical", "sizes": 32, "embedding": 2})
    native, _ = _packed(model.program())
    for isa in _cpp().build_config()["instruction_sets"]:
        assert native.native.scratch_bytes(isa, 10_000, 1) < 2 * 2**20
    row = next(row for row in backends.BACKENDS if row.name == "cpp")
    assert backends.why_not(row, backends.Needs(torch.device("cpu"), torch.float32, outputs={"categorical"})) is None


def test_a_condition_of_one_row_serves_all(set_threads: Any) -> None:
    model = _network("mixed", torch.float64)
    conditions = _given(model, 1, torch.float64, 3, 0.2)
    native, _ = _packed(model.program())
    many = replace(
        conditions,
        **{
            name: getattr(conditions, name).repeat_interleave(200, 0).contiguous()
            for name in ("given", "observed", "support", "bounds")
        },
    )
    one = _draw("cpp", native, 200, 12, torch.float64, conditions=conditions, rows_per_condition=200)
    each = _draw("cpp", native, 200, 12, torch.float64, conditions=many, rows_per_condition=1)
    for a, b in zip(one, each, strict=True):
        assert torch.equal(a, b)
