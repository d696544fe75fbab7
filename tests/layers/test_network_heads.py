"""Heads that multiply by a scale, networks that read the variables in an order of their own, numbers that are not finite."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engines import network_engines
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from made_fast.layers.chains import Chain, NotFinite
from made_fast.layers.networks import Call, WholeNetwork, backend_for
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wire, Wiring

pytestmark = pytest.mark.usefixtures("network_backend")
every_engine = pytest.mark.parametrize("network_backend", network_engines(), indirect=True)

FEATURES, PASSED, CONTEXT, HIDDEN, FLOOR = 5, 2, 3, 11, 1e-2
HEADS = ("softplus_scale", "softclip_scale", "affine")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


def _wiring(passed: int) -> Wiring:
    first = Wire(Kind.AFFINE, HIDDEN, terms=((0, 0), (1, 1)), bias=2)
    last = Wire(Kind.AFFINE, 2 * FEATURES, terms=((3, 3),), bias=4)
    return Wiring(FEATURES + passed, CONTEXT, 5, (first, Wire(Kind.UNARY, HIDDEN, 2, function="tanh"), last))


def _chain(dtype: torch.dtype, passed: int, count: int = 3) -> list[Call]:
    """Networks with random weights and masks; all but the first read the z before them in another order."""
    generator = torch.Generator().manual_seed(count)
    features = FEATURES + passed
    shapes = ((HIDDEN, features), (HIDDEN, CONTEXT), (HIDDEN,), (2 * FEATURES, HIDDEN), (2 * FEATURES,))
    calls = []
    for number in range(count):
        weights = [torch.randn(shape, generator=generator, dtype=dtype).mul_(0.5).requires_grad_() for shape in shapes]
        masks = {place: torch.rand(shapes[place], generator=generator) < 0.6 for place in (0, 3)}
        whole = WholeNetwork(_wiring(passed))
        native = whole.ready(backend_for(torch.ones(1, features, dtype=dtype)), masks)  # type: ignore[arg-type]
        reads = torch.randperm(features, generator=generator) if number else None
        calls.append(Call(whole.wiring, native, weights, masks, _product, reads))
    return calls


def _product(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight * mask, bias)


def _by_hand(calls: list[Call], head: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    total = x.new_zeros(len(x))
    for call in calls:
        x = x if call.reads is None else x[:, call.reads]
        first, of_context, bias, last, last_bias = call.weights
        hidden = torch.tanh(x @ (first * call.masks[0]).T + context @ of_context.T + bias)
        params = hidden @ (last * call.masks[3]).T + last_bias
        even, odd = params[:, ::2], params[:, 1::2]
        value, passed = x[:, :FEATURES], x[:, FEATURES:]
        if head == "softplus_scale":
            log_scale = (F.softplus(even) + FLOOR).log()
            z = value * log_scale.exp() + odd
        elif head == "softclip_scale":
            log_scale = odd / (1 + (odd / math.log(FLOOR)).abs())
            z = value * log_scale.exp() + even
        else:
            log_scale = -(F.softplus(odd) + FLOOR).log()
            z = (value - even) * log_scale.exp()
        x, total = torch.cat([z, passed], 1), total + log_scale.sum(1)
    return x, total


def _inputs(dtype: torch.dtype, rows: int, passed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = 2 * torch.randn(rows, FEATURES + passed, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randn(rows, CONTEXT, generator=generator, dtype=dtype).requires_grad_()


def _all(results: tuple[Tensor, Tensor], wanted: list[Tensor]) -> list[Tensor]:
    total = sum((each * torch.linspace(-1, 1, each.numel(), dtype=each.dtype).view_as(each)).sum() for each in results)
    return [*results, *torch.autograd.grad(total, wanted)]  # type: ignore[arg-type]


@every_engine
@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_its_formula(head: str) -> None:
    for dtype in (torch.float64, torch.float32):
        for rows, count, passed in ((1, 1, 0), (70, 3, 0), (70, 3, PASSED), (9, 2, PASSED)):
            if passed and head == "affine":
                continue
            calls, (x, context) = _chain(dtype, passed, count), _inputs(dtype, rows, passed)
            wanted = [x, context, *(each for call in calls for each in call.weights)]
            found = _all(Chain(calls).run(head, FLOOR, x, context), wanted)
            expected = _all(_by_hand(calls, head, x, context), wanted)
            for one, other in zip(found, expected, strict=True):
                scale = float(other.detach().abs().max()) + 1
                torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)
            with torch.no_grad():
                torch.testing.assert_close(Chain(calls).run(head, FLOOR, x, context), (found[0], found[1]))


def test_scales_at_the_edges() -> None:
    """Far from zero a softplus is what torch makes of it, and a clipped scale stays within its bounds."""
    for head in ("softplus_scale", "softclip_scale"):
        for raw in (-1e4, -100.0, -30.0, 19.9, 20.1, 30.0, 100.0, 1e4):
            (call,) = _chain(torch.float64, 0, 1)
            with torch.no_grad():
                call.weights[3].mul_(1e-3)
                call.weights[4].fill_(raw)
            x, context = _inputs(torch.float64, 4, 0)
            wanted = [x, *call.weights]
            found = _all(Chain([call]).run(head, FLOOR, x, context), wanted)
            torch.testing.assert_close(found, _all(_by_hand([call], head, x, context), wanted), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("head", HEADS)
def test_derivatives_of_derivatives(head: str) -> None:
    calls, (x, context) = _chain(torch.float64, 0, 2), _inputs(torch.float64, 2, 0)

    def function(x: Tensor, context: Tensor, weight: Tensor) -> Any:
        first = calls[0]._replace(weights=[weight, *calls[0].weights[1:]])
        return Chain([first, calls[1]]).run(head, FLOOR, x, context)

    assert gradcheck(function, (x, context, calls[0].weights[0]))
    assert gradgradcheck(function, (x, context, calls[0].weights[0]))


def test_a_network_reads_a_permutation() -> None:
    calls, (x, context) = _chain(torch.float64, 0, 2), _inputs(torch.float64, 3, 0)
    for wrong in ([0, 1, 2, 3, 3], [0, 1, 2, 3, 5], [-1, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="must be a permutation"):
            Chain([calls[0], calls[1]._replace(reads=torch.tensor(wrong))]).run("affine", FLOOR, x, context)


def test_numbers_that_are_not_finite_are_refused_or_given_to_the_definition() -> None:
    head = "softclip_scale"
    for dtype in (torch.float64, torch.float32):
        calls, (x, context) = _chain(dtype, 0), _inputs(dtype, 66, 0)
        places = [(x, -1), (context, 5), *((each, 0) for call in calls for each in call.weights)]
        for tensor, place in places:
            for bad in (torch.nan, torch.inf, -torch.inf):
                with torch.no_grad():
                    kept = tensor.view(-1)[place].clone()
                    tensor.view(-1)[place] = bad
                    with pytest.raises(NotFinite):
                        Chain(calls, finite=True).run(head, FLOOR, x, context)
                    Chain(calls).run(head, FLOOR, x, context)
                    tensor.view(-1)[place] = kept
        with torch.no_grad():
            calls[2].weights[4].fill_(torch.finfo(dtype).max)
        with pytest.raises(NotFinite):  # of finite numbers
            Chain(calls, finite=True).run(head, FLOOR, x * torch.finfo(dtype).max, context)
        calls = _chain(dtype, 0)
        wanted = [x, *(each for call in calls for each in call.weights)]
        gradients = []
        for z, total in (Chain(calls, finite=True).run(head, FLOOR, x, context), _by_hand(calls, head, x, context)):
            weight = torch.ones_like(total)
            weight[3] = torch.nan
            gradients.append(torch.autograd.grad((total * weight).sum() + z.sum(), wanted))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert gradients[0][1].isnan().all()  # under the mask too
