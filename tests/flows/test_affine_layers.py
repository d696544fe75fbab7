"""Layers of torchflows, denmarf and pytorch-flows, deeprob-kit and flowtorch: the slow direction in levels."""

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flow_peers import library, same, stirred
from torch import Tensor, nn

import made_fast
from made_fast.flows.adapters import inverters

FEATURES, CONTEXT, ROWS = 5, 2, 4
Slow = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


class MaskedLinear(nn.Module):
    """As pytorch-flows has it."""

    def __init__(self, mask: Tensor, context: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(mask.shape[1], mask.shape[0])
        if context:
            self.cond_linear = nn.Linear(context, mask.shape[0], bias=False)
        self.register_buffer("mask", mask)

    def forward(self, inputs: Tensor, cond_inputs: Tensor | None = None) -> Tensor:
        found = F.linear(inputs, self.linear.weight * self.mask, self.linear.bias)
        return found if cond_inputs is None else found + self.cond_linear(cond_inputs)


class MADE(nn.Module):
    """A layer that computes what that of pytorch-flows does, with its attributes, written anew."""

    def __init__(self, features: int, hidden: int, context: int = 0) -> None:
        super().__init__()
        degrees, units = torch.arange(features), torch.arange(hidden) % (features - 1)
        last = (units < degrees[:, None]).float()
        self.joiner = MaskedLinear((degrees <= units[:, None]).float(), context)
        self.trunk = nn.Sequential(nn.Tanh(), MaskedLinear(torch.cat([last, last])))

    def forward(self, inputs: Tensor, cond_inputs: Tensor | None = None, mode: str = "direct") -> tuple[Tensor, Tensor]:
        if mode == "direct":
            shift, raw = self.trunk(self.joiner(inputs, cond_inputs)).chunk(2, 1)
            return (inputs - shift) * torch.exp(-raw), -raw.sum(-1, keepdim=True)
        x = torch.zeros_like(inputs)
        for column in range(inputs.shape[1]):
            shift, raw = self.trunk(self.joiner(x, cond_inputs)).chunk(2, 1)
            x[:, column] = inputs[:, column] * torch.exp(raw[:, column]) + shift[:, column]
        return x, raw.sum(-1, keepdim=True)


def _copied() -> tuple[Any, Slow]:
    return MADE(FEATURES, 16), lambda flow, z: flow(z, mode="inverse")


def _copied_with_context() -> tuple[Any, Slow]:
    context = torch.randn(ROWS, CONTEXT, dtype=torch.float64)
    return MADE(FEATURES, 16, CONTEXT), lambda flow, z: flow(z, context.to(z), mode="inverse")


def _denmarf() -> tuple[Any, Slow]:
    flows = library("denmarf.flows")
    layers = [
        flows.MADE(FEATURES, 16),
        flows.BatchNormFlow(FEATURES),
        flows.Reverse(FEATURES),
        flows.MADE(FEATURES, 16),
    ]
    return flows.FlowSequential(*layers), lambda flow, z: flow(z, mode="inverse")


def _deeprob(**options: Any) -> tuple[Any, Slow]:
    kind = library("deeprob.flows.models").MAF
    return kind(FEATURES, n_flows=2, units=16, **options), lambda flow, z: flow.apply_forward(z)


def _flowtorch() -> tuple[Any, Slow]:
    bijectors = library("flowtorch.bijectors")
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(FEATURES), torch.ones(FEATURES)), 1)
    lazy = bijectors.Compose([bijectors.AffineAutoregressive(), bijectors.AffineAutoregressive()])
    flow = library("flowtorch.distributions").Flow(base, lazy)
    return flow, lambda flow, z: (flow.bijector.inverse(z), flow.log_prob(z))


def _torchflows(name: str, **options: Any) -> tuple[Any, Slow]:
    layers = library("torchflows.bijections.finite.autoregressive.layers")
    layer = getattr(layers, name)(event_shape=(FEATURES,), **options)
    return layer, (lambda flow, z: flow.forward(z)) if "Inverse" in name else (lambda flow, z: flow.inverse(z))


def _torchflows_maf() -> tuple[Any, Slow]:
    kind = library("torchflows.bijections.finite.autoregressive.architectures").MAF
    return kind(event_shape=(FEATURES,), n_layers=2), lambda flow, z: flow.inverse(z)


FLOWS: dict[str, Callable[[], tuple[Any, Slow]]] = {
    "copy of pytorch-flows": _copied,
    "with context": _copied_with_context,
    "denmarf": _denmarf,
    "deeprob": lambda: _deeprob(batch_norm=False),
    "deeprob, random masks": lambda: _deeprob(sequential=False, random_state=3),
    "flowtorch": _flowtorch,
    "torchflows MAF": _torchflows_maf,
    "torchflows affine": lambda: _torchflows("AffineForwardMaskedAutoregressive"),
    "torchflows inverse affine": lambda: _torchflows("AffineInverseMaskedAutoregressive"),
    "torchflows spline": lambda: _torchflows("RQSForwardMaskedAutoregressive"),
    "torchflows inverse spline": lambda: _torchflows("RQSInverseMaskedAutoregressive"),
    "torchflows rational": lambda: _torchflows("LRSForwardMaskedAutoregressive"),
}
LEVELS = {name for name in FLOWS if "spline" in name or "rational" in name}


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Slow, Tensor]:
    """A flow with weights of its own, how it runs slowly, and what it is handed."""
    torch.manual_seed(0)
    flow, slow = FLOWS[name]()
    return stirred(flow, dtype), slow, torch.randn(ROWS, FEATURES, dtype=dtype)


@pytest.mark.parametrize("name", FLOWS)
def test_the_slow_direction_is_the_library_s(name: str) -> None:
    flow, slow, z = made(name)
    ours = made_fast.accelerate(flow)
    assert type(ours).__name__ == type(flow).__name__
    assert {each.how for each in inverters(ours)} == {"levels" if name in LEVELS else "compiled"}
    assert max(each.difference for each in inverters(ours)) < 1e-10
    with torch.no_grad():
        found, expected = slow(ours, z), slow(flow, z)
        assert type(found[0]) is type(expected[0])
        same(found[0], expected[0], 1e-9)
        if name in LEVELS:  # torchflows has the log-determinant of splines at other points
            x = found[0]
            expected = (x, -(flow.inverse(x) if "inverse" in name else flow.forward(x))[1])
        same(found[1], expected[1], 1e-6 if "rational" in name else 1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_copies_pickles_and_changed_weights(name: str) -> None:
    flow, slow, z = made(name)
    ours = made_fast.accelerate(flow)
    others = [copy.deepcopy(ours), made_fast.accelerate(ours)]
    if not name.startswith(("flowtorch", "torchflows")):  # whose lazy and own classes have classes in functions
        others.append(pickle.loads(pickle.dumps(ours)))
    with torch.no_grad():
        expected = slow(ours, z)[0]
        for other in others:
            assert len(inverters(other)) == len(inverters(ours))
            same(slow(other, z)[0], expected)
        for parameter in flow.parameters():
            parameter.add_(0.05)
        same(slow(ours, z)[0], slow(flow, z)[0], 1e-9)
        assert not torch.allclose(slow(ours, z)[0], expected)


@pytest.mark.parametrize(
    "name", ["copy of pytorch-flows", "with context", "flowtorch", "torchflows affine", "torchflows spline"]
)
def test_samples_have_gradients(name: str) -> None:
    """As those of the quick direction say: the inverse of its Jacobian."""
    flow, slow, z = made(name)
    ours = made_fast.accelerate(flow)
    z = z[:1].requires_grad_()
    torch.manual_seed(0)
    found = torch.autograd.functional.jacobian(lambda each: slow(ours, each.expand(ROWS, -1))[0][0], z)[:, 0]
    step = 1e-6
    with torch.no_grad():
        moved = [
            (slow(flow, (z + sign * step * torch.eye(FEATURES)[[column]]).expand(ROWS, -1))[0][0])
            for column in range(FEATURES)
            for sign in (1, -1)
        ]
    expected = torch.stack([(moved[2 * each] - moved[2 * each + 1]) / (2 * step) for each in range(FEATURES)], -1)
    same(found, expected, 1e-5)
    weights = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    slow(ours, z.expand(ROWS, -1))[0].sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in weights)


def test_contexts_and_events_of_torchflows() -> None:
    library("torchflows")
    layers = importlib.import_module("torchflows.bijections.finite.autoregressive.layers")
    layer = stirred(layers.AffineForwardMaskedAutoregressive(event_shape=(2, 3), context_shape=(2,)))
    ours = made_fast.accelerate(layer)
    z, context = torch.randn(7, 2, 3).double(), torch.randn(7, 2).double()
    for one, other in zip(ours.inverse(z, context), layer.inverse(z, context), strict=True):
        same(one, other)


def test_directions_that_torchflows_has_exchanged() -> None:
    flow, _, z = made("torchflows affine") if library("torchflows") else (None, None, None)
    flow.invert()
    ours = made_fast.accelerate(flow)
    assert ours.__dict__["forward"].__self__ is ours
    for one, other in zip((*ours.forward(z), *ours.inverse(z)), (*flow.forward(z), *flow.inverse(z)), strict=True):
        same(one, other)


@pytest.mark.parametrize("name", ["UMNNMaskedAutoregressive", "DeepSigmoidalForwardMaskedAutoregressive"])
def test_transformers_that_cannot_be_inverted_in_levels(name: str) -> None:
    layers = library("torchflows.bijections.finite.autoregressive.layers")
    with pytest.raises(ValueError, match="flow must have affine or spline transformers"):
        made_fast.accelerate(getattr(layers, name)(event_shape=(FEATURES,)).eval())


def test_networks_that_are_called_made_are_no_layers() -> None:
    class Other(MADE):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return self.trunk(self.joiner(x)).chunk(2, 1)[0]  # type: ignore[no-any-return]

    Other.__name__ = "MADE"
    assert made_fast.accelerate(Other(FEATURES, 16).eval()).sample(3, seed=0).shape == (3, FEATURES)
