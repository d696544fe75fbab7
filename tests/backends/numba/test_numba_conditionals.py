"""The scalar conditionals of the numba backend against their torch definitions in fp64, at extreme arguments too."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.mixtures import MixtureOfLogisticsConditional, MixtureOfNormalsConditional
from made_fast.outputs.normal import NormalConditional

kernels = pytest.importorskip("made_fast.backends.numba.conditionals", exc_type=ImportError)
special = pytest.importorskip("made_fast.backends.numba.special", exc_type=ImportError)

CONDITIONALS: dict[str, Conditional] = {
    "bernoulli": BernoulliConditional(),
    "spin": SpinConditional(),
    "categorical": CategoricalConditional(7),
    "one_category": CategoricalConditional(1),
    "normal": NormalConditional(),
    "mixture_of_normals": MixtureOfNormalsConditional(3),
    "mixture_of_logistics": MixtureOfLogisticsConditional(3, size=12),
    "two_levels": MixtureOfLogisticsConditional(2, size=2),
}
EDGES = torch.tensor([0, 2.0**-24, 0.5 - 2.0**-24, 0.5, 0.5 + 2.0**-24, 1 - 2.0**-24])


@pytest.fixture(params=list(CONDITIONALS))
def conditional(request: pytest.FixtureRequest) -> Conditional:
    return CONDITIONALS[request.param]


def _cases(conditional: Conditional, rows: int = 120) -> tuple[Tensor, Tensor]:
    """Parameters (rows, K), small ones first, exact in fp32; uniforms (rows, 2), the first at every end."""
    generator = torch.Generator().manual_seed(conditional.num_params)
    params = torch.randn(rows, conditional.num_params, generator=generator)
    params *= torch.tensor([1.0, 5.0, 100.0])[torch.arange(rows) * 3 // rows, None]
    if conditional.floor:  # beyond 20 torch's softplus leaves out 2e-9
        params[:, -max(1, conditional.components) :].clamp_(max=20)
    uniforms = torch.randint(2**24, (rows, 2), generator=generator).float() * 2.0**-24
    uniforms[: len(EDGES) ** 2] = torch.cartesian_prod(EDGES, EDGES)
    return params.double(), uniforms.double()


def _shape(conditional: Conditional) -> tuple[Any, ...]:
    return int(conditional.code), conditional.size, conditional.components, conditional.floor


def _scratch(conditional: Conditional) -> Any:
    return np.full((2, max(1, conditional.size, conditional.components)), np.nan)


def _draw(conditional: Conditional, params: Tensor, uniforms: Tensor, decoding: Decoding = Decoding()) -> Tensor:  # noqa: B008
    own = _shape(conditional)
    options = (float(decoding.temperature), decoding.top_k, float(decoding.top_p))
    found = [
        kernels.mode(*own, row, _scratch(conditional))
        if decoding.greedy
        else kernels.draw(*own, row, uniform, *options, _scratch(conditional))
        for row, uniform in zip(params.numpy(), uniforms.numpy(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def _log_prob(conditional: Conditional, params: Tensor, x: Tensor) -> Tensor:
    own, scratch = _shape(conditional), _scratch(conditional)
    pairs = zip(params.numpy(), x.tolist(), strict=True)
    return torch.tensor([kernels.log_prob(*own, row, value, scratch) for row, value in pairs], dtype=torch.float64)


def _within(conditional: Conditional, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    found = []
    for row, uniform, own in zip(params.numpy(), uniforms.numpy(), allowed.numpy(), strict=True):
        flags, bounds = (
            (own.astype(np.uint8), (0.0, 0.0)) if conditional.size else (np.zeros(0, np.uint8), own.tolist())
        )
        found.append(kernels.draw_within(*_shape(conditional), row, uniform, flags, *bounds, _scratch(conditional)))
    x, log_mass = zip(*found, strict=True)
    return torch.tensor(x, dtype=torch.float64), torch.tensor(log_mass, dtype=torch.float64)


def _allowed(conditional: Conditional, rows: int) -> Tensor:
    """Flags of which at least one is set, or bounds of which some are infinite."""
    generator = torch.Generator().manual_seed(rows)
    if conditional.size:
        flags = torch.rand(rows, conditional.size, generator=generator) < 0.6
        flags[torch.arange(rows), torch.randint(conditional.size, (rows,), generator=generator)] = True
        return flags
    bounds = 3 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    bounds = bounds.sort(-1).values
    bounds[::5, 0], bounds[::7, 1] = -torch.inf, torch.inf
    return bounds


def test_ndtri_is_exact_to_fp64() -> None:
    middle = (torch.arange(1, 2**12, dtype=torch.float64) / 2**12).tolist()
    tails = [10.0**-power for power in range(1, 300, 7)] + [2.0**-25, 1 - 2.0**-25]
    for p in middle + tails:
        expected = torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()
        assert special.ndtri(p) == pytest.approx(expected, rel=2e-14, abs=1e-16)
    for x in (-37.0, -20.0, -3.0, 0.0, 0.5, 5.0, 9.0):
        assert special.ndtr(x) == pytest.approx(torch.special.ndtr(torch.tensor(x).double()).item(), rel=1e-13)
        assert special.ndtri(special.ndtr(-abs(x))) == pytest.approx(-abs(x), rel=1e-12, abs=1e-15)


def test_draws_are_those_of_the_definition(conditional: Conditional) -> None:
    params, uniforms = _cases(conditional)
    x = _draw(conditional, params, uniforms)
    assert conditional.valid(x).all()
    assert torch.allclose(x, conditional.draw(params, uniforms), rtol=1e-13, atol=1e-13)
    assert torch.equal(x, _draw(conditional, params.float(), uniforms))  # in fp64 whatever the parameters


@pytest.mark.parametrize(
    "decoding",
    [Decoding(temperature=0.4), Decoding(temperature=2.5), Decoding(greedy=True)],
    ids=["0.4", "2.5", "greedy"],
)
def test_decoded_draws_are_those_of_the_definition(conditional: Conditional, decoding: Decoding) -> None:
    params, uniforms = _cases(conditional)
    x = _draw(conditional, params, uniforms, decoding)
    assert torch.allclose(x, conditional.draw(params, uniforms, decoding), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("top_k", [0, 1, 3, 7, 9])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-3])
def test_truncated_categories_are_those_of_the_definition(top_k: int, top_p: float) -> None:
    conditional = CategoricalConditional(7)
    params, uniforms = _cases(conditional)
    params[::3] = params[::3].round()  # ties
    decoding = Decoding(top_k=top_k, top_p=top_p, temperature=1.5)
    assert torch.equal(_draw(conditional, params, uniforms, decoding), conditional.draw(params, uniforms, decoding))


def test_log_probabilities_are_those_of_the_definition(conditional: Conditional) -> None:
    params, uniforms = _cases(conditional)
    values = conditional.values()
    for x in [conditional.draw(params, uniforms)] if values is None else values[:, None].expand(-1, len(params)):
        expected = conditional.log_prob(params, x)
        assert torch.allclose(_log_prob(conditional, params, x), expected, rtol=1e-12, atol=1e-13)
        assert torch.equal(_log_prob(conditional, params.float(), x), _log_prob(conditional, params, x))


def test_finite_conditionals_sum_to_one(conditional: Conditional) -> None:
    values = conditional.values()
    if values is not None:
        params, _ = _cases(conditional)
        total = sum(_log_prob(conditional, params, value.expand(len(params))).exp() for value in values)
        assert torch.allclose(torch.as_tensor(total), torch.ones(len(params)).double(), rtol=1e-12)


def test_draws_within_are_those_of_the_definition(conditional: Conditional) -> None:
    params, uniforms = _cases(conditional)
    allowed = _allowed(conditional, len(params))
    x, log_mass = _within(conditional, params, uniforms, allowed)
    expected, expected_mass = conditional.draw_within(params, uniforms, allowed)
    sure = (expected_mass > -8) | torch.tensor(conditional.size > 0)  # a normal's tail has few digits in torch
    assert sure.sum() > 60
    assert torch.allclose(x[sure], expected[sure], rtol=1e-8, atol=1e-8)
    assert torch.allclose(log_mass[sure], expected_mass[sure], rtol=1e-8, atol=1e-12)
    if conditional.size:
        assert allowed[torch.arange(len(x)), (conditional.values()[:, None] == x).long().argmax(0)].all()  # type: ignore[index]
        everything = torch.ones_like(allowed)
        x, log_mass = _within(conditional, params, uniforms, everything)
        assert not log_mass.any()
        if conditional.code != Code.MIXTURE_OF_LOGISTICS:  # which draws by one uniform then
            assert torch.equal(x, _draw(conditional, params, uniforms))


def test_what_has_no_mass_gives_the_first_or_nearest() -> None:
    none = CategoricalConditional(4)
    params = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]]).double()
    flags = torch.tensor([[False, False, True, True]])
    assert _within(none, params, EDGES[None, :2].double(), flags) == (torch.tensor(2.0), -torch.inf)
    for loc, expected in ((1e200, 5.0), (-1e200, 2.0)):  # whose square is too large for fp64
        for one, params in (
            (NormalConditional(), torch.tensor([[loc, 0.0]], dtype=torch.float64)),
            (MixtureOfNormalsConditional(2), torch.tensor([[0.0, 9.0, loc, loc, 0.0, 0.0]], dtype=torch.float64)),
        ):
            found = _within(one, params, EDGES[None, 1:3].double(), torch.tensor([[2.0, 5.0]]).double())
            assert found == (torch.tensor(expected), -torch.inf)


def test_a_distant_interval_keeps_its_digits() -> None:
    """Between 30 and 31 scales above the location the mass is 5e-198; its mirror image must give the mirror image."""
    normal, uniforms = NormalConditional(), EDGES[:, None].expand(-1, 2).double()
    params = torch.tensor([0.0, 0.5413248546129181]).double().expand(len(EDGES), 2)  # scale 1.0001
    above = torch.tensor([30.0, 31.0]).double().expand(len(EDGES), 2)
    x, log_mass = _within(normal, params, uniforms, above)
    mirrored, same_mass = _within(normal, params, uniforms, -above.flip(-1))
    assert torch.equal(x, -mirrored)
    assert torch.equal(log_mass, same_mass)
    scale = normal.parts(params)[1][0].item()
    exact = math.log((math.erfc(30 / scale / 2**0.5) - math.erfc(31 / scale / 2**0.5)) / 2)
    assert torch.allclose(log_mass, torch.full_like(log_mass, exact), rtol=1e-12)
    assert ((x >= 30) & (x <= 31)).all()
    assert (x.diff() <= 0).all()
    # least mass of all: no draw may be infinite where its bound is
    x, _ = _within(normal, params, uniforms, torch.tensor([-torch.inf, -37.6]).double().expand(len(EDGES), 2))
    assert x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_extreme_parameters_give_no_nan(conditional: Conditional, dtype: torch.dtype) -> None:
    extremes = torch.tensor([-1e30, -1e4, -1.0, 0.0, 30.0, 1e30], dtype=dtype)
    picked = torch.randint(len(extremes), (300, conditional.num_params), generator=torch.Generator().manual_seed(0))
    params = extremes[picked]
    uniforms = EDGES[torch.randint(len(EDGES), (300, 2), generator=torch.Generator().manual_seed(1))].double()
    for decoding in (Decoding(), Decoding(temperature=1e-3), Decoding(temperature=1e3), Decoding(greedy=True)):
        x = _draw(conditional, params, uniforms, decoding)
        assert conditional.valid(x).all()
        log_prob = _log_prob(conditional, params, x)
        assert not log_prob.isnan().any()
        assert (log_prob < torch.inf).all()
        if decoding == Decoding():
            assert (log_prob > -torch.inf).all()  # what was drawn is possible
    allowed = _allowed(conditional, len(params))
    x, log_mass = _within(conditional, params, uniforms, allowed)
    assert conditional.valid(x).all()
    assert not log_mass.isnan().any()
    assert (log_mass <= 1e-12).all()
