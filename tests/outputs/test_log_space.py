"""Masses far out, in log space: categories, levels, intervals of normals; and what half precision cannot hold."""

import math
from typing import Any

import mpmath
import pytest
import torch
from conditional_cases import grid, log_probs_of, pytest_generate_tests  # noqa: F401 - for pytest
from torch import Tensor

from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.mixtures import MixtureOfLogisticsConditional, MixtureOfNormalsConditional
from made_fast.outputs.normal import NormalConditional, truncated_normal

HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("far", [-20.0, -90.0, -110.0, -700.0, -800.0, -5e4])
def test_far_categories_keep_their_mass_and_their_shares(far: float, dtype: torch.dtype) -> None:
    """Three that are far out, of shares 1 : 2 : 5, beside one that is all but certain."""
    shares, uniforms = torch.tensor([1.0, 2.0, 5.0]).double() / 8, grid(1000, 1)
    logits = torch.tensor([far, 0.0, far, far]).to(dtype)
    logits[[0, 2, 3]] += shares.log().to(dtype)
    allowed = torch.tensor([True, False, True, True]).expand(1000, -1)
    conditional = CategoricalConditional(4)
    x, log_mass = conditional.draw_within(logits.expand(1000, -1), uniforms, allowed)
    exact = logits.double().log_softmax(-1)[[0, 2, 3]]
    assert log_mass.dtype == (torch.float32 if dtype in HALF else dtype)
    torch.testing.assert_close(log_mass.double(), exact.logsumexp(-1).expand(1000), rtol=1e-6, atol=0)
    found = torch.stack([(x == value).double().mean() for value in (0, 2, 3)])
    torch.testing.assert_close(found, exact.softmax(-1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_far_levels_keep_their_mass(dtype: torch.dtype) -> None:
    """Of sharp logistics at both ends; far from a component its tail falls like an exponential."""
    conditional = MixtureOfLogisticsConditional(2, 16, 1e-3)
    params = torch.tensor([0.5, 0.0, -1.0, -0.9, -5.0, -5.0]).to(dtype)
    exact = log_probs_of(conditional, params.double())
    assert exact.amin() < -200
    found = log_probs_of(conditional, params)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    for values in ([15], [7, 8, 15], [14, 15]):
        allowed = torch.zeros(500, 16, dtype=torch.bool)
        allowed[:, values] = True
        x, log_mass = conditional.draw_within(params.expand(500, -1), grid(500, 1).expand(-1, 2), allowed)
        torch.testing.assert_close(log_mass.double(), exact[values].logsumexp(-1).expand(500), rtol=1e-4, atol=1e-4)
        shares = torch.stack([(x == value).double().mean() for value in values])
        torch.testing.assert_close(shares, exact[values].softmax(-1), rtol=0, atol=5e-3)


# Between two ends: on one side, with the location between, narrow, far out, and at the borders of what is computed how.
INTERVALS = [
    *(
        (-1.0, 2.0),
        (3.0, 4.0),
        (29.9, 30.1),
        (30.0, 30.5),
        (30.1, 31.0),
        (37.0, 39.0),
        (38.5, math.inf),
        (100.0, 200.0),
    ),
    *(
        (1e4, 1e4 + 1e-3),
        (1e6, math.inf),
        (1e8, 1e8 + 1),
        (0.0, 1e-12),
        (1e-20, 2e-20),
        (-1e-30, 1e-30),
        (5.0, 5.0 + 1e-9),
    ),
    *(
        (0.0, 0.999e-3),
        (0.0, 1.001e-3),
        (20.0, 20.0 + 0.49e-4),
        (20.0, 20.0 + 0.51e-4),
        (50.0, 50.0 + 1e-9),
        (-50.0, 60.0),
    ),
    *((1e-3, 40.0), (-2e-4, 3e-4), (0.0, math.inf), (-math.inf, math.inf), (-1e-9, math.inf), (1e3, 1e3 + 1e-6)),
]


def _mass(low: Any, high: Any) -> Any:
    """Of a standard normal between two ends, exact."""
    if low > 0:
        low, high = -high, -low
    return (mpmath.erfc(-high / mpmath.sqrt(2)) - mpmath.erfc(-low / mpmath.sqrt(2))) / 2


@pytest.mark.parametrize("mirrored", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("ends", INTERVALS, ids=str)
def test_intervals_of_a_normal(ends: tuple[float, float], mirrored: bool) -> None:
    """The log of the mass to twelve digits, and draws at the shares that their uniforms say."""
    low, high = (-ends[1], -ends[0]) if mirrored else ends
    uniforms = torch.tensor([0.0, 2.0**-24, 0.1, 0.5, 0.9, 1 - 2.0**-24])
    bounds = torch.tensor([low, high], dtype=torch.float64).expand(len(uniforms), 2)
    x, log_mass = truncated_normal(torch.zeros(()).double(), torch.ones(()).double(), uniforms, bounds)
    assert ((x >= low) & (x <= high)).all()
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    with mpmath.workdps(80):
        whole = _mass(mpmath.mpf(low), mpmath.mpf(high))
        torch.testing.assert_close(log_mass[0].item(), float(mpmath.log(whole)), rtol=2e-12, atol=1e-15)
        for u, value in zip(uniforms.double().tolist(), x.tolist(), strict=True):
            share = float(_mass(mpmath.mpf(low), mpmath.mpf(value)) / whole)
            expected = 1 - (u + 2.0**-25) if low > 0 else u + 2.0**-25
            rounding = 2 * nearest * 2.0**-52 * max(nearest, 1 / (high - low))  # of x to fp64
            assert share == pytest.approx(expected, abs=1e-6 + rounding)


@pytest.mark.parametrize("end", [1e4, 1e6, 1e8])
def test_intervals_very_far_out(end: float) -> None:
    """There the mass is that of an exponential tail: log of density / end, and draws lie -log(1 - share) / end behind it."""
    uniforms = torch.tensor([0.1, 0.5, 0.9])
    scale = 2.0**-20  # so that what lies behind the end has digits
    bounds = torch.tensor([end * scale, math.inf], dtype=torch.float64).expand(3, 2)
    x, log_mass = truncated_normal(torch.zeros(()).double(), torch.tensor(scale).double(), uniforms, bounds)
    expected = -0.5 * end**2 - 0.5 * math.log(2 * math.pi) - math.log(end)
    torch.testing.assert_close(log_mass, torch.full((3,), expected, dtype=torch.float64), rtol=1e-8, atol=0)
    behind = (x / scale - end) * end
    torch.testing.assert_close(behind, -uniforms.double().add(2.0**-25).log(), rtol=1e-3 + 1e-15 * end**2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_components_far_from_what_is_allowed(dtype: torch.dtype) -> None:
    """Of three components that are far from an interval, by their shares of what is in it."""
    conditional, uniforms = MixtureOfNormalsConditional(3, 0.5), grid(60, 2)
    params = torch.tensor([0.0, 1.0, -30.0, -10.0, -11.0, 10.0, 0.0, 0.0, -20.0]).to(dtype)
    bounds = torch.tensor([40.0, 41.0]).to(dtype).expand(len(uniforms), -1)
    x, log_mass = conditional.draw_within(params.expand(len(uniforms), -1), uniforms, bounds)
    logits, locs, scales = conditional.parts(params.double())
    with mpmath.workdps(80):
        masses = [
            _mass((40 - mpmath.mpf(loc)) / scale, (41 - mpmath.mpf(loc)) / scale)
            for loc, scale in zip(locs.tolist(), scales.tolist(), strict=True)
        ]
        weights = logits.softmax(-1).tolist()
        exact = float(mpmath.log(sum(weight * mass for weight, mass in zip(weights, masses, strict=True))))
    assert exact < -800
    torch.testing.assert_close(log_mass.double(), torch.full_like(log_mass.double(), exact), rtol=1e-6, atol=0)
    assert ((x >= 40) & (x <= 41)).all()


EVENTS: list[tuple[Conditional, list[float], float]] = [
    (BernoulliConditional(), [-6e4], 1.0),
    (SpinConditional(), [6e4], -1.0),
    (CategoricalConditional(3), [6e4, 0.0, -6e4], 2.0),
    (NormalConditional(0.1), [0.0, -9.0], 300.0),
    (NormalConditional(1e-3), [0.0, -9.0], 300.0),
    (MixtureOfNormalsConditional(2, 0.1), [0.0, -3.0, 0.0, 1.0, -9.0, -9.0], 300.0),
    (MixtureOfLogisticsConditional(2, 256, 1e-3), [0.0, 0.0, -9e2, -1e3, -9.0, -9.0], 255.0),
    (MixtureOfLogisticsConditional(1, 2000, 1e-3), [0.0, 0.0, 6e4], 1000.0),
]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event[0].name)
def test_half_precision_has_the_log_probabilities_of_fp32(
    event: tuple[Conditional, list[float], float], dtype: torch.dtype
) -> None:
    kind, params, value = event
    half, x = torch.tensor(params).to(dtype), torch.tensor(value).to(dtype)
    found = kind.log_prob(half, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), kind.log_prob(half.double(), x.double()), rtol=1e-5, atol=1e-5)
    assert found.isfinite()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-39, 1e-20, 1e20, 1e39, 1e300])
def test_temperatures_of_any_size(conditional: Any, temperature: float, dtype: torch.dtype) -> None:
    """No nan comes of them: the coldest draw is the mode, the warmest chooses evenly among what is possible."""
    params = torch.linspace(-1, 1, conditional.num_params).to(dtype)
    params[0] = 0.0
    uniforms = grid(64, conditional.num_draws)
    x = conditional.draw(params.expand(len(uniforms), -1), uniforms, Decoding(temperature))
    assert conditional.valid(x).all() or (temperature > 1 and not conditional.size)
    assert not x.isnan().any()
    if conditional.size and conditional.code.name == "CATEGORICAL":
        assert (x == conditional.mode(params)).all() if temperature < 1 else len(x.unique()) == conditional.size
    elif conditional.size == 2 and conditional.num_draws == 1:
        torch.testing.assert_close(x.double().unique(), conditional.values())


@pytest.mark.parametrize("temperature", [1e-50, 1.0, 1e50])
def test_impossible_categories_stay_impossible(temperature: float) -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, -1.0])
    for dtype in DTYPES:
        for decoding in (Decoding(temperature), Decoding(temperature, top_k=3), Decoding(temperature, top_p=1e-50)):
            x = CategoricalConditional(4).draw(logits.to(dtype).expand(100, -1), grid(100, 1), decoding)
            assert set(x.tolist()) <= {1.0, 3.0}
            assert decoding.top_p == 1 or set(x.tolist()) == {1.0}


def _gradient(conditional: Conditional, params: Tensor, value: float) -> Tensor:
    params = params.clone().requires_grad_()
    (found,) = torch.autograd.grad(conditional.log_prob(params, torch.tensor(value).to(params)), params)
    return found


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_gradients_come_back_in_half_precision(dtype: torch.dtype) -> None:
    for conditional, params, value in EVENTS:
        found = _gradient(conditional, torch.tensor(params).clamp(-30, 30).to(dtype), min(value, 3.0))
        assert found.dtype == dtype
        assert not found.isnan().any()
