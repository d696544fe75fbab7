"""The quick direction of accelerated flows: one native call, the library's own numbers, gradients and training."""

import copy
import pickle
from typing import Any

import pytest
import torch
from flow_densities import (
    CASES,
    CONTEXT,
    FEATURES,
    QUICK,
    TOLERANCE,
    agree,
    counted,
    inputs,
    pair,
)
from flow_peers import library, same
from quick import some
from torch import Tensor

import made_fast

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What was run in one call."""
    return counted(monkeypatch)


@pytest.mark.parametrize("name", some([*CASES], QUICK))
def test_density_and_gradients_are_those_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    for dtype in (torch.float64, torch.float32):
        ours, theirs = pair(case, dtype)
        assert calls == []
        agree(case, ours, theirs, dtype)
        assert calls == case.calls
        optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
        for _ in range(2):
            x, c = inputs(dtype)
            found = case.density(ours, x, c)
            loss = sum(each.square().mean() for each in ([found] if isinstance(found, Tensor) else found))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        calls.clear()
        agree(case, ours, theirs, dtype, 3)
        assert calls == case.calls
        calls.clear()
        with torch.no_grad():
            same(case.density(ours, *inputs(dtype)), case.density(theirs, *inputs(dtype)), TOLERANCE[dtype] * 10)
        assert calls == case.calls
        calls.clear()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_a_training_run_has_the_loss_of_the_library(name: str, dtype: torch.dtype, calls: list[Any]) -> None:
    case = CASES[name]
    curves = []
    for accelerated in (True, False):
        torch.manual_seed(0)
        flow = case.make().to(dtype)
        model = made_fast.accelerate(flow) if accelerated else flow
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        generator, losses = torch.Generator().manual_seed(1), []
        x, c = (torch.randn(500, n, generator=generator, dtype=dtype) for n in (FEATURES, CONTEXT))
        for _ in range(4):
            for rows in torch.randperm(500, generator=generator).split(100):
                loss = -case.density(model, x[rows].cumsum(-1), c[rows]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        curves.append(losses)
        assert len(calls) == 20
    assert curves[1][-1] < curves[1][0]
    torch.testing.assert_close(*curves, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["zuko context", "nflows context", "nflows mixed"])
def test_derivatives_of_derivatives(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    found = []
    for flow in (ours, theirs):
        x, c = inputs(rows=4)
        result = case.density(flow, x, c)
        wanted = [x, *flow.parameters()]
        first = torch.autograd.grad(
            sum(each.sin().sum() for each in ([result] if isinstance(result, Tensor) else result)),
            wanted,
            create_graph=True,
        )
        found.append(torch.autograd.grad(sum(each.square().sum() for each in first), wanted))
    assert calls == case.calls
    same(found[0], found[1], 1e-9)


@pytest.mark.parametrize("name", ["zuko context", "nflows", "normflows spline", "pyro"])
def test_copies_pickles_and_states(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = pair(case)
    x, c = (each.detach() for each in inputs())
    with torch.no_grad():
        expected = case.density(theirs, x, c)
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), made_fast.accelerate(ours)):
            calls.clear()
            same(case.density(other, x.clone(), c), expected)
            assert calls == case.calls
        assert list(ours.state_dict()) == list(theirs.state_dict())
        other = copy.deepcopy(ours)
        for parameter in other.parameters():
            parameter.add_(0.1)
        same(case.density(ours, x.clone(), c), expected)
        other.load_state_dict(theirs.state_dict())
        same(case.density(other, x.clone(), c), expected)
        calls.clear()
        single = other.to(torch.float32)
        same(
            case.density(single, x.float(), c.float()),
            case.density(copy.deepcopy(theirs).float(), x.float(), c.float()),
            1e-4,
        )
        assert calls == case.calls
    assert [type(a).__name__ for a in ours.modules()] == [type(b).__name__ for b in theirs.modules()]
    assert all(isinstance(a, type(b)) for a, b in zip(ours.modules(), theirs.modules(), strict=True))


@pytest.mark.parametrize("model", ["maf", "maf_rqs", "zuko_maf", "zuko_nsf"])
def test_estimators_of_sbi(model: str, calls: list[Any]) -> None:
    build = library("sbi.neural_nets").posterior_nn(model)
    torch.manual_seed(0)
    theta, x = torch.randn(60, FEATURES), torch.randn(60, 3)
    theirs = build(theta, x)
    ours = made_fast.accelerate(theirs)
    assert isinstance(ours, type(theirs)) and list(ours.state_dict()) == list(theirs.state_dict())
    losses = [flow.loss(theta, x).mean() for flow in (ours, theirs)]
    same(*losses, 1e-5)
    gradients = [
        torch.autograd.grad(loss, [*flow.parameters()]) for loss, flow in zip(losses, (ours, theirs), strict=True)
    ]
    same(*gradients, 1e-4)
    head = {"maf": "softplus_scale", "zuko_maf": "softclip_scale"}.get(model)
    assert calls == ([(1, "parameters")] * 5 if head is None else [(5, head)])


@pytest.mark.slow
def test_training_by_sbi_is_the_same() -> None:
    inference, nets = library("sbi.inference"), library("sbi.neural_nets")
    prior = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    curves = []
    for change in (made_fast.accelerate, lambda estimator: estimator):
        torch.manual_seed(0)
        build, theta = nets.posterior_nn("maf"), prior.sample((300,))
        npe = inference.NPE(
            prior, density_estimator=lambda t, x, b=build, c=change: c(b(t, x)), show_progress_bars=False
        )
        npe.append_simulations(theta, theta + 0.1 * torch.randn(300, 3)).train(max_num_epochs=4, training_batch_size=50)
        curves.append(torch.tensor([npe.summary["training_loss"], npe.summary["validation_loss"]]))
    assert curves[1][0, -1] < curves[1][0, 0]
    same(*curves, 1e-4)
