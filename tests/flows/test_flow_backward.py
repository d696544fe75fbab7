"""``training.backward`` of accelerated flows: loss and gradients are those of ``loss.backward()`` of the library's flow."""

import copy
import importlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flow_densities import CONTEXT, FEATURES, linears
from flow_peers import library
from flow_steps import (
    CASES,
    NATIVE,
    QUICK,
    TOLERANCE,
    agree,
    agree_or_fail_alike,
    counted,
    defined,
    gradients,
    pair,
    rows,
    same,
)
from quick import some
from torch import Tensor, nn

import made_fast
from made_fast.flows.adapters.densities import FlowNLL, OneCallDensity
from made_fast.training import backward, fit

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each mean that was found in one call."""
    return counted(monkeypatch)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", some([*CASES], QUICK))
def test_loss_and_gradients_are_those_of_the_library(name: str, dtype: torch.dtype, calls: list[int]) -> None:
    ours, theirs = pair(name, dtype)
    for count in (70, 1, 3):
        agree(name, ours, theirs, dtype, count)
    assert calls == ([70, 1, 3] if CASES[name].native else [])
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        backward(ours, *rows(name, dtype))
        optimizer.step()
    optimizer.zero_grad()
    calls.clear()
    agree(name, ours, theirs, dtype, 5)
    assert calls == ([5] if CASES[name].native else [])


@pytest.mark.parametrize("name", ["zuko context", "nflows permuted", "zuko spline"])
def test_what_was_there_is_added_to(name: str) -> None:
    ours, theirs = pair(name)
    theirs = copy.deepcopy(theirs)
    before = list(ours.parameters())
    for number, count in enumerate((70, 9, 70)):
        given = rows(name, count=count)
        same([backward(ours, *given)], [defined(theirs, *given)])
        same([each.grad for each in ours.parameters()], [each.grad for each in theirs.parameters()])
        if not number:
            kept = [each.grad for each in before]
    assert all(each.grad is first for each, first in zip(before, kept, strict=True))  # in place, as autograd adds


@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_a_loop_of_steps_learns_what_the_library_learns(name: str, calls: list[int]) -> None:
    ours, _ = pair(name)
    theirs = pair(name)[1]
    losses: list[list[float]] = [[], []]
    for taken, flow, find in zip(losses, (ours, theirs), (backward, defined), strict=True):
        optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
        for step in range(20):
            optimizer.zero_grad()
            taken.append(find(flow, *rows(name, count=40 + step)).item())
            optimizer.step()
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][-1] < losses[0][0] - 0.5 and len(calls) == 20


@pytest.mark.parametrize("name", some(NATIVE, QUICK))
def test_masked_weights_have_gradients_of_zero(name: str, calls: list[int]) -> None:
    ours, _ = pair(name, torch.float32)
    backward(ours, *rows(name, torch.float32))
    masked = [layer for layer in linears(ours) if hasattr(layer, "mask")]
    assert masked and calls == [70]
    for layer in masked:
        assert (layer.weight.grad[layer.mask == 0] == 0).all()


@pytest.mark.parametrize("name", NATIVE)
def test_rounding_is_that_of_the_library(name: str) -> None:
    exact = gradients(pair(name)[1], defined, *rows(name))
    errors = []
    for flow, find in zip(pair(name, torch.float32), (backward, defined), strict=True):
        found = gradients(flow, find, *(each if each is None else each.float() for each in rows(name)))
        pairs = [(a.double(), b) for a, b in zip(found, exact, strict=True) if b is not None]
        errors.append(torch.cat([((a - b) / b.abs().max()).flatten() for a, b in pairs]).norm())
    assert errors[0] <= 2 * errors[1] + torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", NATIVE)
def test_a_flow_is_read_once_however_its_weights_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(name)
    density: OneCallDensity = ours._one_call_density
    reads: list[int] = []
    plain = density._read
    monkeypatch.setattr(density, "_read", lambda *given: reads.append(1) or plain(*given))
    optimizer = torch.optim.SGD(ours.parameters(), lr=1e-3)
    for _ in range(3):
        backward(ours, *rows(name))
        optimizer.step()
        optimizer.zero_grad()
    assert len(reads) == 1


@pytest.mark.parametrize("name", ["zuko context", "nflows permuted"])
def test_copies_pickles_and_flows_accelerated_again(name: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    agree(name, ours, theirs)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), copy.copy(ours), made_fast.accelerate(ours)):
        calls.clear()
        agree(name, other, theirs)
        agree(name, ours, theirs)
        assert calls == [70, 70]
    other = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    agree(name, other, made_fast.accelerate(other))
    agree(name, ours, theirs)
    agree(name, ours.float(), theirs.float(), torch.float32)


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_two_flows_that_share_parameters(name: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    other, other_theirs = pair(name)
    for flow, shared in ((other, ours), (other_theirs, theirs)):
        linears(flow)[1].weight = linears(shared)[1].weight
    given = rows(name)
    for flow in (ours, other):
        backward(flow, *given)
    found = [each.grad for flow in (ours, other) for each in flow.parameters()]
    for each in (*ours.parameters(), *other.parameters()):
        each.grad = None
    for flow in (theirs, other_theirs):
        defined(flow, *given)
    same(found, [each.grad for flow in (theirs, other_theirs) for each in flow.parameters()])
    assert calls == [70, 70]


@pytest.mark.parametrize("steps", [0, 4, 12])
def test_fit_takes_the_steps_of_the_library(steps: int, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair("nflows")
    plain = FlowNLL.write_gradients  # finds nothing after so many steps, as where a number is not finite
    monkeypatch.setattr(FlowNLL, "write_gradients", lambda *given: plain(*given) if len(calls) < steps else None)
    theirs = copy.deepcopy(theirs)
    x = torch.randn(400, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).cumsum(1)
    curves = []
    for flow in (ours, theirs):
        history = fit(flow, x[:300], x[300:], epochs=2, batch_size=50, learning_rate=1e-3)
        curves.append([(epoch.train_nll, epoch.valid_nll) for epoch in history.epochs])
    assert calls == [50] * steps
    assert torch.tensor(curves[0]).numpy() == pytest.approx(torch.tensor(curves[1]).numpy(), rel=1e-9)
    same([each.detach() for each in ours.parameters()], [each.detach() for each in theirs.parameters()])


@pytest.fixture
def double() -> Iterator[None]:
    """fp64 is what is made where nothing else is said, as pyro's inverse needs it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _of_pyro(context: int) -> Any:
    library("pyro")
    distributions, nets = importlib.import_module("pyro.distributions"), importlib.import_module("pyro.nn")
    transforms = distributions.transforms
    base = distributions.Normal(torch.zeros(FEATURES), torch.ones(FEATURES)).to_event(1)
    if context:
        net = nets.ConditionalAutoRegressiveNN(FEATURES, context, [12, 9])
        transform = transforms.ConditionalAffineAutoregressive(net)
        return distributions.ConditionalTransformedDistribution(base, [transform]), transform
    transform = transforms.AffineAutoregressive(nets.AutoRegressiveNN(FEATURES, [12, 9]))
    return distributions.TransformedDistribution(base, [transform]), transform


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_distributions_of_pyro(context: int, calls: list[int]) -> None:
    torch.manual_seed(0)
    theirs, transform = _of_pyro(context)
    ours = made_fast.accelerate(theirs)
    x, c = rows("zuko context")
    found = gradients(transform, lambda _, *given: backward(ours, *given), x, c if context else None)

    def by_library(_: Any, x: Tensor, c: Tensor | None) -> Tensor:
        loss = -(theirs if c is None else theirs.condition(c)).log_prob(x).mean()
        loss.backward()
        return loss.detach()

    same(found, gradients(transform, by_library, x.clone(), c if context else None))
    assert calls == []


def test_a_flow_as_the_library_has_it() -> None:
    for name in ("zuko context", "nflows context", "zuko spline"):
        _, theirs = pair(name)
        agree(name, theirs, theirs)


WRONG = {
    "width": lambda x, c: (x[:, :-1], c),
    "dtype": lambda x, c: (x.float(), c),
    "integers": lambda x, c: (x.long(), c),
    "no context": lambda x, c: (x, None),
    "rows of the context": lambda x, c: (x, c[:-1]),
    "exchanged": lambda x, c: (torch.cat([x, c[:, :1]], 1), c[:, 1:]),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["zuko context", "nflows context"])
def test_wrong_arguments_are_treated_as_by_the_library(name: str, wrong: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    given = WRONG[wrong](*rows(name))
    failed = agree_or_fail_alike(ours, theirs, given)
    taken = wrong == "no context" and name.startswith("nflows")  # whose networks can do without
    assert len(calls) == taken and not (failed and taken)


@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_shapes(name: str) -> None:
    ours, theirs = pair(name)
    x, c = rows(name)
    shapes = [(x[:0], c if c is None else c[:0]), (x.T.contiguous().T, c), (x[:1].expand(70, FEATURES), c)]
    if c is not None:
        shapes += [(x[0], c[0]), (x, c[0]), (x[:1], c), (x.reshape(7, 10, FEATURES), c.reshape(7, 10, CONTEXT))]
    failed = [agree_or_fail_alike(ours, theirs, given) for given in shapes]
    assert not all(failed)


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Identity(), object()])
def test_what_has_no_density_is_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="model must have log_prob"):
        backward(module, torch.zeros(2, 3))
