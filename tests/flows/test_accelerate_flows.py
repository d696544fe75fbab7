"""``accelerate`` on flows: one door for networks and flows, whose results can be copied, pickled and accelerated again."""

import copy
import importlib
import pickle
from typing import Any

import pytest
import torch
from flow_peers import library, same, stirred
from quick import some
from torch import nn

import made_fast
from made_fast.flows.adapters import inverters

pytestmark = pytest.mark.peers

FEATURES, CONTEXT = 5, 2


def flows() -> dict[str, Any]:
    """One of each library, and how it is led back to the noise, or drawn from."""
    zuko, nflows, normflows = (library(name) for name in ("zuko", "nflows.flows", "normflows"))
    pyro_nn, transforms = library("pyro.nn"), importlib.import_module("pyro.distributions.transforms")
    z = torch.randn(4, FEATURES)
    spline = normflows.flows.AutoregressiveRationalQuadraticSpline(FEATURES, 1, 8, num_bins=4)
    net = pyro_nn.AutoRegressiveNN(FEATURES, [8])
    conditional = transforms.ConditionalAffineAutoregressive(
        pyro_nn.ConditionalAutoRegressiveNN(FEATURES, CONTEXT, [8])
    )
    context = torch.randn(4, CONTEXT)
    return {
        "zuko": (zuko.flows.MAF(FEATURES, hidden_features=(8,)), lambda flow: flow().transform.inv(z)),
        "zuko spline": (zuko.flows.NSF(FEATURES, transforms=1), lambda flow: flow().transform.inv(z)),
        "nflows": (nflows.MaskedAutoregressiveFlow(FEATURES, 8, 2, 1), lambda flow: flow._transform.inverse(z)[0]),
        "normflows": (spline, lambda flow: flow.forward(z)[0]),
        "pyro": (transforms.AffineAutoregressive(net), lambda flow: flow.inv(z.clone())),
        "pyro stable": (transforms.AffineAutoregressive(net, stable=True), lambda flow: flow.inv(z.clone())),
        "pyro conditional": (conditional, lambda flow: flow.condition(context).inv(z.clone())),
    }


NAMES = ["zuko", "zuko spline", "nflows", "normflows", "pyro", "pyro stable", "pyro conditional"]


@pytest.mark.parametrize("name", some(NAMES, {"zuko", "pyro"}))
def test_accelerate_takes_flows_and_they_can_be_copied_pickled_and_accelerated_again(name: str) -> None:
    flow, inverse = flows()[name]
    flow = stirred(flow, torch.float32)
    inverse(flow).sum().backward()  # some keep what they have computed
    ours = made_fast.accelerate(flow)
    assert inverters(ours) and isinstance(ours, type(flow))
    with (
        torch.no_grad()
    ):  # what a transform of pyro keeps of a pass with gradients cannot be copied, in pyro itself too
        expected = inverse(ours)
        same(expected, inverse(flow), 1e-4)
    again = made_fast.accelerate(ours, stale="raise")
    assert len(inverters(again)) == len(inverters(ours))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), again):
        assert type(other) is type(ours)
        assert [each.how for each in inverters(other)] == [each.how for each in inverters(ours)]
        with torch.no_grad():
            assert torch.equal(inverse(other), expected)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(inverse(ours).detach(), expected)
    with pytest.raises(RuntimeError, match="have changed"):
        inverse(again)


def test_accelerate_takes_distributions_of_pyro() -> None:
    library("pyro")
    dist, transform = importlib.import_module("pyro.distributions"), stirred(flows()["pyro"][0], torch.float32)
    theirs = dist.TransformedDistribution(dist.Normal(torch.zeros(FEATURES), 1.0).to_event(1), [transform])
    ours = made_fast.accelerate(theirs, check=False)
    y = torch.randn(3, FEATURES)
    same(ours.log_prob(y), theirs.log_prob(y), 1e-4)
    with pytest.raises(ValueError, match="found none in TransformedDistribution"):
        made_fast.accelerate(dist.TransformedDistribution(dist.Normal(0.0, 1.0), []))


def test_accelerate_names_a_flow_that_has_nothing_to_gain() -> None:
    coupling = library("nflows.transforms").AffineCouplingTransform(torch.arange(4) % 2, nn.Linear)
    for flow in (coupling, library("zuko").flows.NICE(4), library("normflows").flows.Planar((3,))):
        with pytest.raises(ValueError, match=f"found none in {type(flow).__name__}"):
            made_fast.accelerate(flow)


def test_a_flow_that_is_still_the_identity() -> None:
    flow = library("normflows").flows.AutoregressiveRationalQuadraticSpline(FEATURES, 1, 8, num_bins=4).eval()
    assert not flow.mprqat.autoregressive_net.final_layer.weight.any()
    z = torch.randn(4, FEATURES)
    same(made_fast.accelerate(flow).forward(z), flow.forward(z), 1e-4)


def test_univariates_with_weights_of_their_own_are_refused() -> None:
    for name in ("NAF", "UNAF"):
        flow = getattr(library("zuko").flows, name)(4, transforms=1, hidden_features=(8,))
        with pytest.raises(ValueError, match="has weights of its own, stacked by variable"):
            made_fast.accelerate(flow)


def test_networks_of_these_libraries_are_noflows() -> None:
    net = library("nflows.transforms.made").MADE(4, 8).eval()
    assert made_fast.accelerate(net).sample(3, seed=0).shape == (3, 4)
    net = library("zuko").nn.MaskedMLP(torch.ones(4, 4).tril(-1).bool())
    assert made_fast.accelerate(net).sample(3, seed=0).shape == (3, 4)


def test_a_posterior_is_accelerated_by_its_estimator() -> None:
    class Posterior:
        def __init__(self, estimator: nn.Module) -> None:
            self.posterior_estimator = estimator

        def __getstate__(self) -> dict[str, Any]:
            return self.__dict__

        def __setstate__(self, state: dict[str, Any]) -> None:  # as in sbi: a shallow copy shares its attributes
            self.__dict__ = state

    flow = library("zuko").flows.MAF(FEATURES, transforms=1, hidden_features=(8,))
    posterior = Posterior(flow)
    ours = made_fast.accelerate(posterior)
    assert type(ours) is Posterior and posterior.posterior_estimator is flow
    assert [each.how for each in inverters(ours)] == ["compiled"]
