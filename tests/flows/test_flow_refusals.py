"""What is said of flows that cannot be made quicker, and those that come back as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import made_fast
from made_fast import MADE


class Network(nn.Module):
    """Means and raw scales of three variables."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MADE(3, (8,), output="normal")

    def forward(self, x: Tensor) -> Tensor:
        return self.model.parameters_layer(torch.relu(self.model.hidden[0](x)))  # type: ignore[no-any-return]


class Flow(nn.Module):
    """As libraries write one."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList([Network(), Network()])
        self.embedding = nn.Sequential(nn.Linear(5, 5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for network in self.networks:
            x = x * torch.exp(network(x)[:, ::2]) + network(x)[:, 1::2]
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        return self(x).sum(-1)

    def sample(self, count: int) -> Tensor:
        return torch.zeros(count, 3)


class Inference:
    """As sbi trains."""

    def build_posterior(self) -> None:
        return None


def test_a_flow_of_a_library_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"nflows, normflows, .*deeprob-kit and flowtorch, got Flow of") as refused:
        made_fast.accelerate(Flow().eval(), features=3)
    text = str(refused.value)
    assert "networks.0 (Network), networks.1 (Network)." in text
    assert "Read as a network it was refused: " in text
    sampler = made_fast.accelerate(Flow().networks[0], output="normal", features=3)
    assert sampler.sample(4, seed=0).shape == (4, 3)


def test_networks_are_refused_as_before() -> None:
    with pytest.raises(ValueError, match=r"^module must be autoregressive"):
        made_fast.accelerate(nn.Linear(3, 3))


def test_who_trains_a_posterior_says_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"got Inference, which trains one: .*build_posterior\(\)"):
        made_fast.accelerate(Inference())


@pytest.mark.parametrize("context", [0, 2])
def test_flows_of_one_variable_come_back(context: int) -> None:
    zuko = pytest.importorskip("zuko")
    given = () if not context else (torch.zeros(context),)
    for kind in ("MAF", "NSF"):
        flow: Any = getattr(zuko.flows, kind)(1, context, transforms=2)
        assert made_fast.accelerate(flow) is flow
        assert flow(*given).sample((3,)).shape == (3, 1)


def test_couplings_have_nothing_slow() -> None:
    zuko = pytest.importorskip("zuko")
    with pytest.raises(ValueError, match="found none in NICE: its couplings are quick in both directions"):
        made_fast.accelerate(zuko.flows.NICE(4))


def test_couplings_of_freia_are_known_by_their_names() -> None:
    block = type("AllInOneBlock", (nn.Linear,), {"__module__": "FrEIA.modules.all_in_one_block"})
    flow = type("SequenceINN", (nn.Sequential,), {"__module__": "FrEIA.framework.sequence_inn"})(block(4, 4))
    with pytest.raises(ValueError, match="found none in SequenceINN: its couplings are quick in both directions"):
        made_fast.accelerate(flow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "found"),
    [("maf", None), ("zuko_nsf", None), ("made", "one variable at a time"), ("mdn", "one pass"), ("nsf", "couplings")],
)
def test_estimators_of_sbi(name: str, found: str | None) -> None:
    pytest.importorskip("sbi")
    from sbi.neural_nets import posterior_nn

    estimator = posterior_nn(name)(torch.randn(50, 3), torch.randn(50, 2))
    if found is None:
        assert made_fast.adapters.inverters(made_fast.accelerate(estimator))
        return
    with pytest.raises(ValueError, match=rf"flow must have an autoregressive transform.*{found}"):
        made_fast.accelerate(estimator)
