"""What is read is run once first, in silence; what no program can hold is found without an export."""

import functools
import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import made_fast
from made_fast.capture import CaptureError, captured
from made_fast.capture.export import _quiet


class Lazy(nn.Module):
    """Folds its mask at its first use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @functools.cached_property
    def masked(self) -> Tensor:
        return self.linear.weight.detach() * torch.ones(4, 4).tril(-1).to(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.masked, self.linear.bias)


class Branching(nn.Module):
    """Chooses its way by values, after some operations that a dump of its graph would show."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.on = nn.Linear(4, 4), False
        self.linear.weight.data.tril_(-1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh()
        return self.linear(-x) if self.on and bool((y > 0).any()) else self.linear(x)


def test_what_is_kept_at_the_first_use_is_real() -> None:
    module = Lazy().eval()
    sampler = made_fast.accelerate(module)
    assert sampler.capture.difference < 1e-12
    assert "masked" not in vars(module)  # the module itself was not run
    assert module(torch.zeros(2, 4)).shape == (2, 4)


def test_nothing_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    module = Branching().eval()
    sampler = made_fast.accelerate(module)
    module.on = True
    for work in (sampler.refresh, lambda: made_fast.accelerate(module)):
        with pytest.raises(CaptureError, match="choose its way by values"):
            work()
    assert capfd.readouterr() == ("", "")


def test_other_threads_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    with _quiet():
        sys.stderr.write("of this thread\n")
        other = threading.Thread(target=lambda: sys.stderr.write("of another\n"))
        other.start()
        other.join()
    sys.stderr.write("afterwards\n")
    assert capsys.readouterr().err == "of another\nafterwards\n"


HOPELESS: dict[str, Any] = {
    "comparison": lambda m, x: (m(x) > 0).to(x) + x,
    "way": lambda m, x: m(x) if bool((x > 0).all()) else x,
    "in place": lambda m, x: m(x).clone().sin_().sort().values,
}
FINE: dict[str, Any] = {
    "dead": lambda m, x: (m(x) > 0, m(x))[1],
    "like": lambda m, x: m(x) + (torch.zeros_like(x) > 0),
    "in place": lambda m, x: m(x).clone().mul_(2).relu_(),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_cannot_be_translated_is_not_exported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(4, 4).requires_grad_(False)
    module.weight.tril_(-1)

    def call(module: nn.Module, x: Tensor, context: Tensor | None) -> Any:
        return HOPELESS[name](module, x)

    monkeypatch.setattr(captured, "export", None)
    with pytest.raises(CaptureError, match=r"test_rehearsal\.py, line|values of tensors"):
        captured.capture(module.eval(), 4, call=call, hurry=True)


@pytest.mark.parametrize("name", FINE)
def test_what_can_be_translated_is_read_in_a_hurry_too(name: str) -> None:
    module = nn.Linear(4, 4).requires_grad_(False)
    module.weight.tril_(-1)
    read = captured.capture(module.eval(), 4, call=lambda m, x, c: FINE[name](m, x), hurry=True)
    assert read.difference < 1e-9


@pytest.mark.parametrize("kind", ["NSF", "SOSPF", "BPF"])
def test_flows_that_end_in_levels_are_exported_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zuko = pytest.importorskip("zuko")
    exports: list[Any] = []
    whole = captured.export
    monkeypatch.setattr(captured, "export", lambda *arguments: exports.append(1) or whole(*arguments))
    flow = made_fast.accelerate(getattr(zuko.flows, kind)(3, transforms=1, hidden_features=(8,)).eval())
    (inverter,) = made_fast.adapters.inverters(flow)
    assert inverter.how == "levels"
    assert len(exports) == 1  # of the network alone
