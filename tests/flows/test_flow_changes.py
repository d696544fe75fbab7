"""Whatever changes an accelerated flow of another library, its inverse and its density are those of the changed flow."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from changes import CHANGES
from flow_densities import CASES, FEATURES, inputs, linears, pair
from flow_peers import library
from torch import Tensor

import made_fast

QUICK = {"pruned", "plain number", "hooked weight norm"}


def _transform(name: str) -> Any:
    if name == "nflows":
        transforms: Any = library("nflows.transforms.autoregressive")
        return transforms.MaskedAffineAutoregressiveTransform(5, 12, num_blocks=1).double().eval()
    return library("zuko.flows").MAF(5, 0, transforms=1, hidden_features=(12,)).double().eval().transform.transforms[0]


@pytest.mark.parametrize("name", ["nflows", "zuko"])
@pytest.mark.parametrize(
    "change", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.slow) for each in CHANGES]
)
def test_inverses_are_never_stale(name: str, change: str) -> None:
    torch.manual_seed(0)
    transform, z = _transform(name), torch.randn(6, 5).double()
    fast = made_fast.accelerate(transform)

    def inverse(module: Any) -> Any:
        with torch.no_grad():
            return module.inverse(z)[0] if name == "nflows" else module().inv(z)

    before = inverse(fast)
    for _ in range(2):
        CHANGES[change](transform)
        now = inverse(fast)
        torch.testing.assert_close(now, inverse(transform), rtol=1e-6, atol=1e-6)
        assert not torch.equal(now, before)
        assert torch.equal(inverse(fast), now)  # nothing has changed, and from now on that is watched
        before = now


KINDS = ("zuko", "zuko spline", "nflows", "nflows context", "normflows affine", "normflows gated", "pyro")


def _by_the_library(kind: str, flow: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        for each in ("networks", "nflows", "zuko"):
            patch.setattr(f"made_fast.flows.adapters.{each}.serving", lambda *rows: None)
        return _density(kind, flow)


def _density(kind: str, flow: Any) -> Tensor:
    x, c = (each.detach().to(next(flow.parameters()).dtype) for each in inputs())
    with torch.set_grad_enabled(kind != "pyro"):  # which keeps its last result, and with it all tensors of its graph
        found = CASES[kind].density(flow, x, c)
    parts = found if isinstance(found, tuple) else (found,)
    return torch.cat([each.detach().reshape(len(x), -1) for each in parts], 1)


@cache
def _accelerated(kind: str) -> Any:
    return pair(CASES[kind])[0]


def _warm(kind: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("made_fast.flows.adapters.networks._LEAST_MACS", 0)
    flow = copy.deepcopy(_accelerated(kind))
    for _ in range(2):
        _density(kind, flow)
    return flow


def _assert_seen(kind: str, flow: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    found, again = _density(kind, flow), _density(kind, flow)
    expected = _by_the_library(kind, flow, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(again, found, rtol=0, atol=0, equal_nan=True)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_densities_are_never_stale(kind: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = _warm(kind, monkeypatch)
    for _ in range(2):
        before = _density(kind, flow)
        CHANGES[change](flow)
        is_cut = (kind, change) == ("pyro", "one weight")  # the logarithm of a scale, which pyro cuts off at 3
        assert not torch.equal(_assert_seen(kind, flow, monkeypatch), before) or is_cut


def _cut_off(flow: Any) -> None:
    """A mask written to behind torch's count of versions."""
    linears(flow)[-1].mask.numpy()[-2:] = 0


def _other_mask(flow: Any) -> None:
    layer = linears(flow)[-1]
    layer.mask = torch.zeros_like(layer.mask)


def _scaled_layer(flow: Any) -> None:
    layer = linears(flow)[-1]
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)


def _subclassed(flow: Any) -> None:
    layer = linears(flow)[-1]
    layer.__class__ = type("Other", (type(layer),), {"forward": lambda self, x: 2 * super(type(self), self).forward(x)})


def _transposed(flow: Any) -> None:
    layer = linears(flow)[-1]
    layer.weight.data = 2 * layer.weight.data.t().contiguous().t()


def _negative_view(flow: Any) -> None:
    layer = linears(flow)[-1]
    layer.weight.data = torch._neg_view(layer.weight.data)


def _hooked(flow: Any) -> None:
    linears(flow)[-1].register_forward_hook(lambda module, inputs, output: 2 * output)


def _network_hooked(flow: Any) -> None:
    net = next(each for each in flow.modules() if "_one_call" in vars(each))
    net.register_forward_hook(
        lambda module, inputs, output: (
            [2 * each for each in output] if isinstance(output, (list, tuple)) else 2 * output
        )
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "way",
    [_cut_off, _other_mask, _scaled_layer, _subclassed, _transposed, _negative_view, _hooked, _network_hooked],
)
def test_masks_hooks_and_memory_are_seen(kind: str, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = _warm(kind, monkeypatch)
    before = _density(kind, flow)
    way(flow)
    assert not torch.equal(_assert_seen(kind, flow, monkeypatch), before)


def test_what_a_flow_is_composed_of_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("zuko", "nflows"):
        flow, other = _warm(kind, monkeypatch), _warm(kind, monkeypatch)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        ours, theirs = (
            each.transform.transforms if kind == "zuko" else each._transform._transforms for each in (flow, other)
        )
        for place in (1, len(ours) - 1, 0):
            before = _density(kind, flow)
            ours[place] = theirs[place]
            assert not torch.equal(_assert_seen(kind, flow, monkeypatch), before) or kind == "nflows"
        before = _density(kind, flow)
        del ours[-1]
        assert not torch.equal(_assert_seen(kind, flow, monkeypatch), before)


def test_permutations_written_behind_every_count_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = _warm("nflows", monkeypatch)
    permutations = [each for name, each in flow.named_buffers() if name.endswith("_permutation")]
    for each in permutations:
        before = _density("nflows", flow)
        each.numpy()[:] = torch.arange(FEATURES).roll(2).numpy()
        assert not torch.equal(_assert_seen("nflows", flow, monkeypatch), before)


def test_a_dropout_that_is_switched_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    transforms: Any = library("nflows.transforms.autoregressive")
    x = torch.randn(50, FEATURES)
    ours = made_fast.accelerate(
        transforms.MaskedAffineAutoregressiveTransform(FEATURES, 12, dropout_probability=0.5).eval()
    )
    before = [ours(x)[0] for _ in range(2)]
    assert torch.equal(*before)
    ours.train()
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], before[0])
