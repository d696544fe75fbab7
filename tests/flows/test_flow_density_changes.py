"""What is done to an accelerated flow, and what it is asked that the engine cannot do: as in the library."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flow_densities import (
    CASES,
    CONTEXT,
    FEATURES,
    ROWS,
    Case,
    agree,
    counted,
    inputs,
    linears,
    pair,
)
from flow_peers import library, same
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import made_fast

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What was run in one call."""
    return counted(monkeypatch)


def _scaled(module: nn.Module) -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(module, "weight", Twice())


class _Bent(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.1 * x


def _bend(flow: Any) -> None:
    for module in flow.modules():
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, _Bent())
        if "activation" in vars(module):
            module.activation = torch.sinh


def _write(values: Callable[[Tensor], Any], name: str) -> Callable[[Any], None]:
    def change(flow: Any) -> None:
        with torch.no_grad():
            values(getattr(linears(flow)[1], name))

    return change


# What is done to the layers that both share, and whether the native call is still taken afterwards.
CHANGES: dict[str, tuple[Callable[[Any], object], bool]] = {
    "hook": (lambda flow: linears(flow)[0].register_forward_hook(lambda m, i, o: 1.5 * o), False),
    "pre-hook": (lambda flow: linears(flow)[0].register_forward_pre_hook(lambda m, i: (2 * i[0],)), False),
    "gradient hook": (lambda flow: linears(flow)[1].register_full_backward_hook(lambda m, i, o: (2 * i[0],)), False),
    "pruned": (lambda flow: prune.l1_unstructured(linears(flow)[1], "weight", 0.5), False),
    "parametrized": (lambda flow: _scaled(linears(flow)[1]), False),
    "other activation": (_bend, False),
    "forward": (
        lambda flow: setattr(linears(flow)[0], "forward", lambda x: F.linear(x, linears(flow)[0].weight)),
        False,
    ),
    "mask of others": (_write(lambda mask: mask.copy_(mask.flip(0)), "mask"), True),
    "nan": (_write(lambda weight: weight[0].fill_(torch.nan), "weight"), False),
    "infinite bias": (_write(lambda bias: bias[1].fill_(torch.inf), "bias"), False),
    "dropped": (lambda flow: [setattr(each, "bias", None) for each in linears(flow)], False),
    "frozen": (lambda flow: [each.bias.requires_grad_(False) for each in linears(flow)[1:2]], True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_what_is_done_to_layers_is_seen(name: str, change: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    x, c = inputs()
    before = case.density(ours, x, c)
    calls.clear()
    do, native = CHANGES[change]
    do(ours)
    if change == "other activation":
        do(theirs)
    wanted = [each for each in ours.parameters() if each.requires_grad] + [x]
    found = []
    for flow in (ours, theirs):
        result = case.density(flow, x, c)
        found.append([result, *torch.autograd.grad(result.sum(), wanted, allow_unused=True)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9, equal_nan=True)
    if change not in ("gradient hook", "frozen"):
        assert not torch.equal(found[0][0], before)
    if native:
        assert calls == case.calls
    else:
        assert case.calls[0] not in calls


def test_a_float_mask_of_other_numbers_is_a_product_too(calls: list[Any]) -> None:
    case = CASES["nflows"]
    ours, theirs = pair(case)
    linears(ours)[0].mask.mul_(0.5)
    agree(case, ours, theirs)
    assert case.calls[0] not in calls


def test_a_permutation_that_changes_is_seen(calls: list[Any]) -> None:
    case = CASES["nflows"]
    ours, theirs = pair(case)
    agree(case, ours, theirs)
    permutations = [each for name, each in ours.named_buffers() if name.endswith("_permutation")]
    permutations[1].copy_(torch.tensor([1, 2, 3, 4, 0]))
    agree(case, ours, theirs)
    assert calls == case.calls * 2
    permutations[1].copy_(torch.tensor([1, 2, 3, 4, 4]))  # a library takes this too
    agree(case, ours, theirs)
    assert calls == case.calls * 2 + [(1, "softplus_scale")] * 3


def test_other_transforms_in_the_place_of_affine_ones(calls: list[Any]) -> None:
    zuko = library("zuko")
    case = CASES["zuko"]
    ours, theirs = pair(case)
    for flow in (ours, theirs):
        flow.transform.transforms[1].univariate = lambda shift, scale: zuko.transforms.MonotonicAffineTransform(
            shift, scale, slope=0.1
        )
    agree(case, ours, theirs)
    assert (1, "parameters") in calls and case.calls[0] not in calls


@pytest.mark.parametrize("name", ["zuko", "nflows", "zuko spline"])
def test_numbers_that_are_not_finite_are_those_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case, torch.float32)
    for value in (torch.nan, torch.inf, -torch.inf, 1e38):
        for column in (0, FEATURES - 1):
            x, c = inputs(torch.float32)
            with torch.no_grad():
                x[3, column] = value
            try:
                expected = case.density(theirs, x, c)
            except Exception as reason:
                with pytest.raises(type(reason)):
                    case.density(ours, x, c)
                continue
            found = case.density(ours, x, c)
            for each in (found, expected):
                each.sum().backward()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    ours.zero_grad()
    gradients = []
    for flow in (ours, theirs):
        x, c = inputs(torch.float32)
        weight = torch.ones(ROWS)
        weight[2] = torch.nan
        gradients.append(torch.autograd.grad((case.density(flow, x, c) * weight).sum(), [x, *flow.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert any(bool(each.isnan().any()) for each in gradients[0])


WRONG: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "width": (lambda x, c: (x[:, :-1], c)),
    "dtype": (lambda x, c: (x.half(), c)),
    "integers": (lambda x, c: (x.long(), c)),
    "context": (lambda x, c: (x, c[:, :1])),
    "rows": (lambda x, c: (x, c[:-1])),
    "exchanged": (lambda x, c: (torch.cat([x, c[:, :1]], 1), c[:, 1:])),
}


def _outcome(function: Callable[[], Any]) -> Any:
    """What a call gives, or how it fails."""
    try:
        return function()
    except Exception as reason:
        return type(reason), str(reason)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["zuko context", "nflows context"])
def test_wrong_arguments_are_treated_as_in_the_library(name: str, wrong: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    x, c = WRONG[wrong](*(each.detach() for each in inputs()))
    found, expected = (_outcome(lambda flow=flow: case.density(flow, x, c)) for flow in (ours, theirs))  # type: ignore[misc]
    if isinstance(expected, Tensor):
        same(found, expected)
    else:
        assert found == expected
    assert case.calls[0] not in calls


@pytest.mark.parametrize("name", ["zuko context", "nflows", "zuko spline"])
def test_shapes(name: str) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    x, c = (each.detach() for each in inputs())
    shapes = [(x[:0], c[:0]), (x[:1], c[:1]), (x.T.contiguous().T, c), (x.expand(3, ROWS, FEATURES)[1], c)]
    if name.startswith("zuko"):
        blocks = (x.reshape(7, 10, FEATURES), c.reshape(7, 10, CONTEXT))
        shapes += [(x[0], c[0]), (x, c[0]), (x[:, None], c[None, :3]), blocks]
    for each in shapes:
        found, expected = (_outcome(lambda f=flow, e=each: case.density(f, *e)) for flow in (ours, theirs))  # type: ignore[misc]
        if isinstance(expected, Tensor):
            assert found.shape == expected.shape
            same(found, expected)
        else:
            assert found == expected


def _watched(case: Case, flow: Any) -> list[Tensor]:
    """What transforms, forward mode and autocast make of a density."""
    x, c = (each.detach() for each in inputs(torch.float32, 6))

    def density(x: Tensor) -> Any:
        return case.density(flow, x, c)

    with torch.autograd.forward_ad.dual_level():
        tangent = torch.autograd.forward_ad.unpack_dual(density(torch.autograd.forward_ad.make_dual(x, x))).tangent
    with torch.autocast("cpu", torch.bfloat16):
        rounded = density(x)
    assert tangent is not None
    return [torch.func.jacrev(density)(x), torch.func.jvp(density, (x,), (x,))[1], tangent, rounded]


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_who_watches_sees_the_library(name: str, calls: list[Any]) -> None:
    ours, theirs = pair(CASES[name], torch.float32)
    same(_watched(CASES[name], ours), _watched(CASES[name], theirs), 1e-4)
    assert calls == []


def test_weights_of_a_functional_call(calls: list[Any]) -> None:
    case = CASES["nflows mixed"]
    ours, theirs = pair(case)
    weights = {name: (2 * each).detach().requires_grad_() for name, each in ours.named_parameters()}
    found = []
    for flow in (ours, theirs):
        log_det = torch.func.functional_call(flow, weights, (inputs()[0],))[1]
        found.append(torch.autograd.grad(log_det.sum(), [*weights.values()]))
    same(found[0], found[1], 1e-9)
    assert calls == case.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_a_compiled_flow_is_that_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    x, c = (each.detach() for each in inputs())
    compiled = torch.compile(lambda x, c: case.density(ours, x, c), backend="aot_eager")
    same(compiled(x, c), case.density(theirs, x, c))
    assert calls == []


@pytest.mark.parametrize("name", ["zuko", "nflows", "pyro"])
def test_a_hook_that_is_gone_and_a_hook_of_the_network(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    handle = linears(ours)[0].register_forward_hook(lambda m, i, o: 2 * o)
    agree(case, ours, theirs)
    assert case.calls[0] not in calls
    handle.remove()
    calls.clear()
    agree(case, ours, theirs)
    assert calls == case.calls
    net = next(each for each in ours.modules() if "_one_call" in vars(each))
    seen: list[Any] = []
    net.register_forward_hook(lambda m, i, o: seen.append(o))
    agree(case, ours, theirs)
    assert seen


def test_chance_and_batches_run_as_in_the_library(calls: list[Any]) -> None:
    of = library("nflows.transforms")
    x = torch.randn(ROWS, FEATURES)
    for options in ({"dropout_probability": 0.5}, {"use_batch_norm": True}):
        transform = of.MaskedAffineAutoregressiveTransform(FEATURES, 12, **options)
        ours = made_fast.accelerate(transform)
        found = []
        for flow in (ours, copy.deepcopy(transform)):
            torch.manual_seed(0)
            found.append(flow.train()(x))
        same(found[0], found[1])
        assert calls == []
        same(ours.eval()(x), transform.eval()(x), 1e-4)
        assert calls == ([(1, "softplus_scale")] if "dropout_probability" in options else [])
        calls.clear()


def test_shallow_copies_have_modules_of_their_own(calls: list[Any]) -> None:
    ours, _ = pair(CASES["zuko single"])
    net = next(each for each in ours.modules() if "_one_call" in vars(each))
    other = copy.copy(net)
    vars(other)["_modules"] = {name: copy.deepcopy(each) for name, each in net._modules.items()}
    x, _ = inputs()
    before = net(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    for _ in range(2):
        same(net(x), before)
        assert not torch.allclose(other(x), before)
    assert calls == [(1, "parameters")] * 5


def test_a_small_network_alone_is_as_quick_by_the_library(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["zuko spline"]
    ours, theirs = pair(case)
    rows = 1000
    (net, _) = (each for each in ours.modules() if "_one_call" in vars(each))
    macs = sum(each.weight.numel() for each in linears(net))
    for least, expected in ((macs * rows, case.calls), (macs * rows + 1, [])):
        monkeypatch.setattr("made_fast.flows.adapters.networks._LEAST_MACS", least)
        agree(case, ours, theirs, rows=rows)
        assert calls == expected
        calls.clear()
