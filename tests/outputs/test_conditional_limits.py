"""Conditionals held to what is allowed, against scipy; and parameters of any size, which must never give nan."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from conditional_cases import CASES, EDGES, grid, log_probs_of, pytest_generate_tests, some_params  # noqa: F401 - for pytest
from scipy.stats import norm
from torch import Tensor

from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.mixtures import MixtureOfNormalsConditional
from made_fast.outputs.normal import NormalConditional


def test_draws_within_what_is_allowed_of_finite_conditionals(finite: Any) -> None:
    """Every set of values (of many values a few sets): the mass by addition, and draws that follow what is left."""
    size, values = finite.size, finite.values()
    sets = (
        list(itertools.product([False, True], repeat=size))[1:]
        if size <= 5
        else torch.rand(8 if size < 100 else 3, size).lt(0.4).tolist()
    )
    uniforms = grid(1000, 1).expand(-1, 2)
    params = some_params(finite)
    log_probs = log_probs_of(finite, params)
    for flags in filter(any, sets):
        allowed = torch.tensor(flags)
        x, log_mass = finite.draw_within(params.expand(1000, -1), uniforms, allowed.expand(1000, -1))
        assert torch.isin(x, values[allowed]).all()
        assert x.dtype == log_mass.dtype == torch.float64
        expected = log_probs[allowed].logsumexp(0) if not allowed.all() else torch.zeros(()).double()
        torch.testing.assert_close(log_mass, expected.expand(1000), rtol=1e-9, atol=1e-12)
        shares = (x[:, None] == values[allowed]).double().mean(0)
        assert ((shares - log_probs[allowed].softmax(0)).abs() <= 2 / 1000).all()
        if allowed.all() and finite.code != Code.MIXTURE_OF_LOGISTICS:
            assert torch.equal(x, finite.draw(params.expand(1000, -1), uniforms))


BOUNDS = [(-1.0, 0.5), (0.3, 0.4), (-math.inf, -0.2), (1.5, math.inf), (-math.inf, math.inf), (2.0, 3.0), (-30.0, 30.0)]


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """Log of a standard normal's mass between two ends, by whichever tail has the digits."""
    flip = (low > 0).numpy()
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    upper, lower = norm.logcdf(high), norm.logcdf(low)
    return torch.as_tensor(upper + np.log1p(-np.exp(np.minimum(lower - upper, 0))))


def _log_mass(conditional: Any, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log of the mass between ends (...) under parameters (K,)."""
    logits, locs, raw = (
        params.split(conditional.components) if conditional.components else (params[:1], *params.split(1))
    )
    scales = torch.log1p(raw.exp()) + conditional.floor
    between = _log_between((low[..., None] - locs) / scales, (high[..., None] - locs) / scales)
    return (logits.log_softmax(-1) + between).logsumexp(-1)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_draws_between_bounds(real: Any, bounds: tuple[float, float]) -> None:
    uniforms = grid(120, real.num_draws)
    count, (low, high) = len(uniforms), torch.tensor(bounds).double()
    for own in some_params(real, 3, scale=0.7):
        x, log_mass = real.draw_within(own.expand(count, -1), uniforms, torch.tensor(bounds).double().expand(count, -1))
        assert ((x >= low) & (x <= high)).all()
        whole = _log_mass(real, own, low, high)
        torch.testing.assert_close(log_mass, whole.expand(count), rtol=1e-9, atol=1e-13)
        points = x.sort().values[:: count // 10]
        shares = (x[None] <= points[:, None]).double().mean(1)
        expected = (_log_mass(real, own, low.expand(len(points)), points) - whole).exp()
        assert ((shares - expected).abs() <= 2.5 / 120).all()
        if bounds == (-math.inf, math.inf):
            torch.testing.assert_close(x, real.draw(own.expand(count, -1), uniforms), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(8.0, 9.0), (-9.0, -8.0), (30.0, 31.0), (-37.0, -30.0), (20.0, math.inf)])
def test_far_tails_of_a_normal_keep_their_digits(low: float, high: float) -> None:
    normal, uniforms = CASES["normal"], grid(50, 1)
    params = torch.tensor([0.0, math.log(math.expm1(2.0 - 1e-4))], dtype=torch.float64)  # a scale of 2
    ends = torch.tensor([2 * low, 2 * high]).double()
    x, log_mass = normal.draw_within(params.expand(50, -1), uniforms, ends.expand(50, -1))
    whole = _log_between(ends[0] / 2, ends[1] / 2)
    torch.testing.assert_close(log_mass, whole.expand(50), rtol=1e-12, atol=0)
    assert ((x >= ends[0]) & (x <= ends[1])).all()
    shares = (_log_between((ends[0] / 2).expand(50), x / 2) - whole).exp()
    u = uniforms[:, 0].double() + 2.0**-25
    torch.testing.assert_close(shares, 1 - u if low > 0 else u, rtol=0, atol=1e-6)  # the upper tail is turned round


def test_where_nothing_allowed_has_mass() -> None:
    """The first allowed value, or the bound nearest to the location; the log of the mass is -inf, never nan."""
    allowed = torch.tensor([[False, False, True, True, False]])
    for weights in (
        [0.0, 0, -math.inf, -math.inf, 0],
        [3e38, 0, -3e38, -3e38, 0],
    ):  # not, or by less than fp32 can hold
        x, log_mass = CategoricalConditional(5).draw_within(torch.tensor([weights]), torch.full((1, 1), 0.3), allowed)
        assert (x.item(), log_mass.item()) == (2.0, -math.inf)
    for low, high, nearest in ((3e38, math.inf, 3e38), (50, 50, 50), (-math.inf, -3e38, -3e38)):
        ends = torch.tensor([[low, high]])
        x, log_mass = NormalConditional().draw_within(torch.tensor([[0.0, 0.0]]), torch.full((1, 1), 0.3), ends)
        assert (x.item(), log_mass.item()) == (torch.tensor(nearest).item(), -math.inf)
        mixture = torch.tensor([[0.0, 1.0, 0.5, -0.5, 0.0, 0.0]])
        x, log_mass = MixtureOfNormalsConditional(2).draw_within(mixture, torch.full((1, 2), 0.3), ends)
        assert (x.item(), log_mass.item()) == (torch.tensor(nearest).item(), -math.inf)


HUGE = (-1e30, -1e4, -90.0, 0.0, 1.0, 90.0, 1e4, 1e30)


def _extremes(conditional: Conditional, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if len(HUGE) ** conditional.num_params <= 5000:
        return torch.cartesian_prod(*[torch.tensor(HUGE, dtype=dtype)] * conditional.num_params).reshape(
            -1, conditional.num_params
        )
    picked = torch.randint(
        len(HUGE), (2000 if conditional.size < 100 else 300, conditional.num_params), generator=generator
    )
    return torch.tensor(HUGE, dtype=dtype)[picked]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_params_of_any_size_give_no_nan(conditional: Any, dtype: torch.dtype) -> None:
    params = _extremes(conditional, dtype)
    count, generator = len(params), torch.Generator().manual_seed(1)
    for decoding in (Decoding(), Decoding(greedy=True), Decoding(0.01), Decoding(100.0)):
        for _ in range(3):
            uniforms = EDGES[torch.randint(len(EDGES), (count, 2), generator=generator)]
            x = conditional.draw(params, uniforms, decoding)
            assert conditional.valid(x).all()
            log_prob = conditional.log_prob(params, x)
            assert not log_prob.isnan().any()
            assert (log_prob < torch.inf).all()
            if not decoding.features:
                assert (log_prob > -torch.inf).all() or not conditional.size  # what was drawn is possible
            cdf = conditional.cdf(params, x)
            assert ((cdf >= 0) & (cdf <= 1 + 1e-6)).all()
    if conditional.size:
        total = log_probs_of(conditional, params).double().logsumexp(-1)
        assert (total.abs() < 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_what_is_allowed_gives_no_nan_for_parameters_of_any_size(conditional: Any, dtype: torch.dtype) -> None:
    params = _extremes(conditional, dtype)
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        uniforms = EDGES[torch.randint(len(EDGES), (len(params), 2), generator=generator)]
        if conditional.size:
            allowed = torch.rand(len(params), conditional.size, generator=generator) < 0.5
            allowed[:, -1] |= ~allowed.any(1)
        else:
            ends = torch.tensor([-torch.inf, -1e30, -1.0, 0.0, 1e-20, 1e4, 1e30, torch.inf], dtype=dtype)
            allowed = ends[torch.randint(len(ends), (len(params), 2), generator=generator)].sort(1).values
            allowed = torch.where(
                allowed.isinf() & (allowed == allowed.flip(1)), allowed.new_tensor([0.0, 1.0]), allowed
            )
        x, log_mass = conditional.draw_within(params, uniforms, allowed)
        assert conditional.valid(x).all()
        assert not log_mass.isnan().any()
        assert (log_mass <= 1e-6).all()
        if not conditional.size:
            assert ((x >= allowed[:, 0]) & (x <= allowed[:, 1])).all()


def test_gradients_of_large_parameters_are_no_nan(conditional: Any) -> None:
    params = _extremes(conditional, torch.float32).clamp(-1e4, 1e4).requires_grad_()
    for value in (0.0, 1.0) if conditional.size != 1 else (0.0,):
        x = torch.full((len(params),), value)
        (gradient,) = torch.autograd.grad(conditional.log_prob(params, x).sum(), params)
        assert not gradient.isnan().any()
