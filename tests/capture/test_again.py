"""Weights that changed are read into the graph of the last time; whatever else changed is exported again."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import made_fast

FEATURES = 4


class Network(nn.Module):
    """Logits of four bits, with all kinds of things that a module may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, FEATURES)
        degrees = torch.arange(8) % 3
        self.register_buffer("mask", (degrees[:, None] >= torch.arange(FEATURES)).float())
        self.register_buffer("other", (torch.arange(FEATURES)[:, None] > degrees).float(), persistent=False)
        self.function: Callable[[Tensor], Tensor] = torch.tanh
        self.slope, self.sizes = 1.0, [FEATURES, {"hidden": 8}]

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(F.linear(x, self.first.weight * self.mask, self.first.bias))
        return self.slope * F.linear(h, self.last.weight * self.other, self.last.bias)


class WithTensor(Network):
    """Its scale is a tensor and no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((FEATURES,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Folded(Network):
    """Keeps what follows from its weights, until it is told to forget."""

    @functools.cached_property
    def weight(self) -> Tensor:
        return self.first.weight.detach() * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight, self.first.bias)), self.last.weight * self.other)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each export."""
    found: list[int] = []
    export = torch.export.export

    def counted(*arguments: Any, **options: Any) -> Any:
        found.append(1)
        return export(*arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    return found


def _weights(module: Network) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def _replaced(module: Network) -> None:
    module.first.weight = nn.Parameter(torch.randn(8, FEATURES))


def _buffer(module: Network) -> None:
    module.mask[1:3] = 0  # type: ignore[operator]


def _function(module: Network) -> None:
    module.function = torch.relu


def _number(module: Network) -> None:
    module.slope = 3.0


def _bias(module: Network) -> None:
    module.last.bias = None


def _hook(module: Network) -> None:
    module.last.register_forward_hook(lambda _, inputs, output: output + 1)
    module.forward = functools.partial(_called, module)  # type: ignore[method-assign]


def _called(module: Network, x: Tensor) -> Tensor:
    return module.last(torch.tanh(module.first(x * 0)))


CHANGES: dict[str, tuple[Callable[[Any], None], int]] = {
    "weights": (_weights, 0),
    "a parameter of another name": (_replaced, 0),
    "a mask": (_buffer, 0),
    "a function": (_function, 1),
    "a number": (_number, 1),
    "a bias that is none": (_bias, 1),
    "hooks and a forward": (_hook, 2),
}


def equal_to_a_fresh_one(sampler: Any, module: nn.Module) -> None:
    fresh = made_fast.accelerate(copy.deepcopy(module), features=FEATURES)
    assert torch.equal(sampler.sample(200, seed=0), fresh.sample(200, seed=0))


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_exported_again(name: str, exports: list[int]) -> None:
    change, expected = CHANGES[name]
    torch.manual_seed(0)
    module = Network().eval()
    sampler = made_fast.accelerate(module)
    sampler.sample(3)
    exports.clear()
    for _ in range(2):  # the second time it is there already, but for the hook
        change(module)
        sampler.refresh()
    assert len(exports) == expected
    equal_to_a_fresh_one(sampler, module)


def test_tensors_beside_parameters_and_buffers_are_exported_again(exports: list[int]) -> None:
    module = WithTensor().eval()
    sampler = made_fast.accelerate(module)
    for change in (lambda: _weights(module), lambda: module.scale.mul_(2)):
        exports.clear()
        change()
        sampler.sample(3)
        assert len(exports) == 1
        equal_to_a_fresh_one(sampler, module)


def test_what_follows_from_weights_is_not_taken_for_them() -> None:
    module = Folded().eval()
    sampler = made_fast.accelerate(module)
    _weights(module)
    module.__dict__.pop("weight", None)
    equal_to_a_fresh_one(sampler, module)


@pytest.mark.parametrize("change", ["parametrized", "pruned"])
def test_weights_that_something_makes(change: str, exports: list[int]) -> None:
    module = Network().eval()
    if change == "parametrized":
        parametrizations.weight_norm(module.first)
    else:
        prune.random_unstructured(module.first, "weight", 0.3)
    sampler = made_fast.accelerate(module, features=FEATURES)
    exports.clear()
    _weights(module)
    sampler.sample(3)
    assert len(exports) <= 1
    if change == "parametrized":  # of a pruned layer the hook leaves a computed tensor behind, which deepcopy refuses
        equal_to_a_fresh_one(sampler, module)


def test_copies_begin_anew(exports: list[int]) -> None:
    module = Network().eval()
    sampler = made_fast.accelerate(module)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        exports.clear()
        _weights(other.module)
        other.sample(3)
        assert len(exports) == 1
        _weights(other.module)
        equal_to_a_fresh_one(other, other.module)


def test_what_is_not_returned_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A logarithm is no operation of programs, but here nothing is made of it; what is written in place counts."""

    class Noting(Network):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            found.abs().add(1).log().sum()
            return found

    def refused(*_: Any) -> None:
        raise AssertionError("taken apart")

    module = Noting().eval()
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refused)
    equal_to_a_fresh_one(made_fast.accelerate(module), module)
    monkeypatch.undo()

    class InPlace(Network):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            found.add_(torch.tensor([3.0, -3.0, 3.0, -3.0]).to(x))
            return found

    sampler = made_fast.accelerate(InPlace().eval())
    assert sampler.sample(400, seed=0).mean(0).sub(torch.tensor([1.0, 0.0, 1.0, 0.0])).abs().max() < 0.3


@pytest.mark.peers
@pytest.mark.parametrize("name", ["MAF", "NSF"])
def test_flows_are_read_again_without_an_export(name: str, exports: list[int]) -> None:
    flow = getattr(pytest.importorskip("zuko").flows, name)(FEATURES, transforms=2, hidden_features=(8,)).double()
    ours = made_fast.accelerate(flow)
    z = torch.randn(5, FEATURES, dtype=torch.float64)
    for _ in range(2):
        exports.clear()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            found, expected = ours().transform.inv(z), flow().transform.inv(z)
        assert not exports
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
