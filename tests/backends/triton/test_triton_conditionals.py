"""The arithmetic with which kernels draw, against torch in fp64; parameters of any size give no nan."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from quick import some
from torch import Tensor

from made_fast import noise

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU or, set before the start, TRITON_INTERPRET=1", allow_module_level=True)

pytestmark = [pytest.mark.triton, pytest.mark.interpreter]
triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")
conditionals = pytest.importorskip("made_fast.backends.triton.conditionals.weights")
choose, chunk_of, greatest_logit = conditionals.choose, conditionals.chunk_of, conditionals.greatest_logit
log_prob_of_component = conditionals.log_prob_of_component
log_prob_of_mixture = conditionals.log_prob_of_mixture
logit, logit_of_tail, ndtri_of_tail = conditionals.logit, conditionals.logit_of_tail, conditionals.ndtri_of_tail
tail, total_weight, uniform = conditionals.tail, conditionals.total_weight, conditionals.uniform

R = 64
SIZES = [(1, 4), (2, 4), (5, 8), (32, 32), (33, 32), (100, 16), (257, 32)]  # categories, taken so many at a time
EXTREMES = (0.0, 1.0, -1.0, 1e-30, 40.0, -40.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30)


@triton.jit
def _quantiles(u, out, R: tl.constexpr):
    place = tl.program_id(0) * R + tl.arange(0, R)
    value = tl.load(u + place)
    p, upper = tail(value)
    tl.store(out + 3 * place, ndtri_of_tail(p, upper))
    tl.store(out + 3 * place + 1, logit_of_tail(p, upper))
    tl.store(out + 3 * place + 2, logit(value))


@triton.jit(do_not_specialize=["seed", "step"])
def _uniforms(seed: tl.int64, step, rows, out, R: tl.constexpr):
    r = tl.arange(0, R)
    noise = (seed, step, tl.load(rows + r))
    for draw in tl.static_range(2):
        tl.store(out + 2 * r + draw, uniform(noise, draw))


@triton.jit
def _categories(params, count, sharpness, u, out, log_prob, bad, R: tl.constexpr, WIDTH: tl.constexpr):
    r = tl.arange(0, R)
    at = params + r * count
    most, nan = greatest_logit(at, count, count, WIDTH)
    drawn_from = total_weight(at, count, most, sharpness, WIDTH)
    chosen = choose(at, count, most, sharpness, tl.load(u + r) * drawn_from, WIDTH)
    tl.store(out + r, chosen)
    tl.store(log_prob + r, tl.load(at + chosen) - most - tl.log(total_weight(at, count, most, 1.0, WIDTH)))
    tl.store(bad + r, nan)


@triton.jit
def _mixtures(params, count, size, floor, x, out, LOGISTIC: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    r = tl.arange(0, R)
    at = params + r * (3 * count)
    most, _ = greatest_logit(at, count, 3 * count, WIDTH)
    sum = total_weight(at, count, most, 1.0, WIDTH)
    tl.store(out + r, log_prob_of_mixture(at, tl.load(x + r), count, most, sum, floor, size, LOGISTIC, WIDTH))


def _ran(kernel: Any, *arguments: Any, grid: int = 1, **sizes: Any) -> None:
    moved = [value.to(DEVICE) if isinstance(value, Tensor) else value for value in arguments]
    with np.errstate(all="ignore"):
        kernel[(grid,)](*moved, **sizes)
    for value, on_device in zip(arguments, moved, strict=True):
        if isinstance(value, Tensor):
            value.copy_(on_device)


def _grid(count: int) -> Tensor:
    """Uniforms: the least and greatest ones, those round the borders within ``ndtri``, and some from anywhere."""
    ends = torch.arange(64)
    borders = torch.tensor([0.075, 0.5, 0.925]) * 2**24
    steps = [ends, 2**24 - 1 - ends, *(border.long() + torch.arange(-32, 32) for border in borders)]
    anywhere = torch.randint(2**24, (count,), generator=torch.Generator().manual_seed(0))
    return torch.cat([*steps, anywhere]).double() * 2.0**-24


def test_quantiles_have_six_digits_everywhere() -> None:
    u = _grid(R * 40 - 64 * 5)
    out = torch.full((len(u), 3), torch.nan)
    _ran(_quantiles, u.float(), out, grid=len(u) // R, R=R)
    p = u + 2.0**-25
    torch.testing.assert_close(out[:, 0].double(), torch.special.ndtri(p), rtol=1e-6, atol=0)
    torch.testing.assert_close(out[:, 1:].double(), torch.logit(torch.stack([p, u], dim=1)), rtol=1e-6, atol=1e-7)
    assert torch.isfinite(out[:, :2]).all()


def test_uniforms_are_those_of_the_definition() -> None:
    rows = torch.arange(R) * 2**33 + 5
    for seed, step in ((3, 0), (-(2**40), 6), (2**63 - 1, 1021), (0, 7)):
        out = torch.full((R, 2), torch.nan)
        _ran(_uniforms, seed, step, rows, out, R=R)
        expected = torch.stack([noise.uniform(seed, rows, step, draw) for draw in (0, 1)], dim=1)
        assert torch.equal(out, expected)


def _categories_of(params: Tensor, u: Tensor, width: int, sharpness: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    out, log_prob = torch.full((R,), -1, dtype=torch.int32), torch.full((R,), torch.nan)
    bad = torch.full((R,), -1, dtype=torch.int32)
    _ran(_categories, params, params.shape[1], sharpness, u, out, log_prob, bad, R=R, WIDTH=width)
    return out.long(), log_prob, bad


@pytest.mark.parametrize(
    "sizes", some([(1, 4), (2, 4), (5, 8), (32, 32), (33, 32), (100, 16), (257, 32)], {(1, 4), (33, 32)})
)
@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_categories_follow_the_rule(sizes: tuple[int, int], sharpness: float) -> None:
    count, width = sizes
    generator = torch.Generator().manual_seed(count)
    params = 3 * torch.randn(R, count, generator=generator)
    u = torch.rand(R, generator=generator)
    u[:2] = torch.tensor([0.0, 1 - 2.0**-24])
    found, log_prob, bad = _categories_of(params, u, width, sharpness)
    sums = (params.double() * sharpness).softmax(-1).cumsum(-1)
    expected = (sums <= (u.double() * sums[:, -1])[:, None]).sum(-1).clamp(max=count - 1)
    nearest = (sums - u.double()[:, None]).abs().amin(-1)
    assert ((found == expected) | (nearest < 1e-6)).all()
    torch.testing.assert_close(
        log_prob.double(), params.double().log_softmax(-1).gather(1, found[:, None])[:, 0], rtol=1e-5, atol=1e-6
    )
    assert not bad.any()


def test_a_category_without_weight_is_never_drawn() -> None:
    generator = torch.Generator().manual_seed(2)
    params = torch.randn(R, 40, generator=generator)
    none = torch.rand(R, 40, generator=generator) < 0.7
    none[:, 17] = False
    params[none] = -1e30
    for u in (0.0, 0.3, 0.5, 1 - 2.0**-24):
        found, log_prob, _ = _categories_of(params, torch.full((R,), u), 8)
        assert not none.gather(1, found[:, None]).any()
        assert torch.isfinite(log_prob).all()


def test_logits_of_any_size_and_nan() -> None:
    values = torch.tensor(EXTREMES)
    params = values[torch.randint(len(values), (R, 6), generator=torch.Generator().manual_seed(1))]
    found, log_prob, bad = _categories_of(params, torch.rand(R, generator=torch.Generator().manual_seed(3)), 4)
    expected = params.double().log_softmax(-1).gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-6, atol=1e-6)
    assert not bad.any()
    params[5, 4] = torch.nan
    assert _categories_of(params, torch.rand(R), 4)[2].nonzero()[:, 0].tolist() == [5]


def _log_prob_of(params: Tensor, x: Tensor, size: int, width: int) -> Tensor:
    out, floor = torch.full((R,), torch.nan), 1e-3 if size else 1e-4
    _ran(
        _mixtures,
        params,
        params.shape[1] // 3,
        size or 2,
        floor,
        x,
        out,
        LOGISTIC=size > 0,
        R=R,
        WIDTH=width,
    )
    return out


def _expected(params: Tensor, x: Tensor, size: int) -> Tensor:
    """log p in fp64."""
    logits, locs, raw = params.double().unflatten(-1, (3, -1)).unbind(-2)
    scales = torch.nn.functional.softplus(raw) + (1e-3 if size else 1e-4)
    x = x.double()[:, None]
    if size:
        half = 1 / (size - 1)
        low, high = ((2 * half * x - 1 + side * half - locs) / scales for side in (-1, 1))
        upper = torch.where(x == size - 1, 0, torch.nn.functional.logsigmoid(high))
        lower = torch.where(x == 0, 0, torch.nn.functional.logsigmoid(-low))
        inside = torch.where((x == 0) | (x == size - 1), 0, torch.log(-torch.expm1(-2 * half / scales)))
        own = upper + lower + inside
    else:
        own = torch.distributions.Normal(locs, scales).log_prob(x)
    return (logits.log_softmax(-1) + own).logsumexp(-1)


@pytest.mark.parametrize("size", some([0, 2, 5, 256], {0, 5}))
@pytest.mark.parametrize("sizes", some([(1, 4), (3, 4), (10, 16), (37, 32)], {(3, 4), (37, 32)}))
def test_log_probs_of_mixtures(sizes: tuple[int, int], size: int) -> None:
    count, width = sizes
    generator = torch.Generator().manual_seed(count)
    params = torch.randn(R, 3 * count, generator=generator)
    params[:, 2 * count :] = 3 * params[:, 2 * count :] - 2
    x = torch.randint(size, (R,), generator=generator).float() if size else torch.randn(R, generator=generator)
    if size:
        x[:4] = torch.tensor([0.0, 0.0, size - 1, size - 1])
    found, expected = _log_prob_of(params, x, size, width), _expected(params, x, size)
    scale = torch.nn.functional.softplus(params[:, 2 * count :]).amin(-1) + 1e-3
    error = (found - expected).abs() / (1 + expected.abs()) * scale  # x and location cancel, and are divided by it
    assert error.max() < 2e-6


@pytest.mark.parametrize("size", [0, 2, 256])
def test_mixtures_of_any_parameters_give_no_nan(size: int) -> None:
    values = torch.tensor(EXTREMES)
    for number in range(5):
        generator = torch.Generator().manual_seed(number)
        params = values[torch.randint(len(values), (R, 9), generator=generator)]
        x = torch.randint(size, (R,), generator=generator).float() if size else 3 * torch.randn(R, generator=generator)
        found, expected = _log_prob_of(params, x, size, 4), _expected(params, x, size)
        assert not found.isnan().any()
        finite = expected > -1e30
        torch.testing.assert_close(found[finite].double(), expected[finite], rtol=1e-4, atol=1e-4)
