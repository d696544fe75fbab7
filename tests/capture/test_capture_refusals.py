"""What cannot be captured is refused, in words that help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from capture_models import Bent, D, MaskedInForward, double
from torch import Tensor, nn

import made_fast
from made_fast.capture.captured import CaptureError
from made_fast.outputs.normal import Normal


class Refused(nn.Module):
    def __init__(self, what: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(D, D), what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self, x)


def _branching(module: Any, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def _ring(module: Any, x: Tensor) -> Tensor:
    return x[:, [1, 2, 0, 0, 0, 0, 0]]


def test_refusals_name_the_layer() -> None:
    module = nn.Sequential(double(Bent("relu")), nn.Sequential(nn.Tanh(), nn.Softmax(-1)))
    with pytest.raises(CaptureError, match=r"softmax.* .*in module '1\.1' \(Softmax\)"):
        made_fast.accelerate(module)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "softmax": (
        lambda module, x: x.softmax(-1),
        r"aten\._?softmax.* .*test_capture_refusals\.py, line \d+, in forward: return self\.what",
    ),
    "sine": (lambda module, x: module.linear(x).sin(), r"aten\.sin .*no translation"),
    "branch": (_branching, r"choose its way by values.*test_capture_refusals\.py"),
    "leak": (lambda module, x: module.linear(x), r"variable 0 depend on variable 0 itself"),
    "ring": (_ring, r"variable \d depends on variable \d and variable \d, by way of others, on variable \d"),
    "wrong width": (lambda module, x: nn.functional.linear(x, torch.ones(D, D + 1)), "must accept x of shape"),
    "too few": (lambda module, x: x[:, :3], f"multiple of {D} parameters, got 3"),
    "no batch": (lambda module, x: x.sum(0).cumsum(0), "must return parameters"),
    "random": (lambda module, x: torch.randn(D).to(x) + 0 * x, "it is random"),
    "two matrices": (lambda module, x: x.T @ x, "more than one of its arguments"),
    "rounding": (lambda module, x: x.long().to(x.dtype), "rounds them to torch.int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    what, message = REFUSED[name]
    with pytest.raises(CaptureError, match=message):
        made_fast.accelerate(Refused(what), features=D)


def test_rows_that_depend_on_one_another_are_found_by_the_comparison() -> None:
    with pytest.raises(CaptureError, match="rows depend on one another"):
        made_fast.accelerate(Refused(lambda module, x: (x.roll(1, 1) * (torch.arange(D) > 0)).cumsum(0)), features=D)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(D)])
def test_training_mode_is_refused_where_it_matters(layer: nn.Module) -> None:
    module = nn.Sequential(Bent("relu"), layer)
    with pytest.raises(ValueError, match=r"training mode: call eval\(\) first"):
        made_fast.accelerate(module, features=D)
    made_fast.accelerate(module.eval(), features=D)


def test_dropout_by_function_is_refused_in_training_mode() -> None:
    module = Refused(lambda module, x: F.dropout(x.roll(1, 1) * (torch.arange(D) > 0), 0.5, module.training))
    with pytest.raises(ValueError, match=r"training changes what it gives: call eval\(\) first"):
        made_fast.accelerate(module, features=D)
    assert made_fast.accelerate(module.eval(), features=D).capture.difference == 0


def test_arguments_are_checked() -> None:
    module = double(MaskedInForward(2))
    with pytest.raises(ValueError, match="output must be given, since module has 2 parameters"):
        made_fast.accelerate(module)
    with pytest.raises(ValueError, match="must give 7 parameters for this output, but it gives 14"):
        made_fast.accelerate(module, output="bernoulli")
    with pytest.raises(ValueError, match="layout must be one of"):
        made_fast.accelerate(module, output=Normal(), layout="major")
    with pytest.raises(ValueError, match="must be autoregressive"):
        made_fast.accelerate(module, output=Normal(), layout="variable-major")
    with pytest.raises(ValueError, match="stale must be one of"):
        made_fast.accelerate(module, output=Normal(), stale="never")
    with pytest.raises(ValueError, match="features must be an integer"):
        made_fast.accelerate(module, features=0)
    with pytest.raises(ValueError, match="a scripted or traced one"):
        made_fast.accelerate(torch.jit.trace(MaskedInForward(), torch.zeros(1, D)))
    module.second.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights must be finite"):
        made_fast.accelerate(module, output=Normal())
    with pytest.raises(ValueError, match="module must be"):
        made_fast.accelerate(lambda x: x)
    with pytest.raises(ValueError, match="no weight matrix"):
        made_fast.accelerate(nn.ReLU())


def test_layouts_that_cannot_be_told_must_be_given() -> None:
    module = Refused(lambda module, x: torch.cat([x[:, :0], torch.ones_like(x), torch.zeros_like(x)], dim=1))
    with pytest.raises(ValueError, match="layout must be given"):
        made_fast.accelerate(module, features=D, output=Normal())
    sampler = made_fast.accelerate(module, features=D, output=Normal(), layout="parameter-major")
    assert sampler.num_steps == 1


def test_probabilities_are_refused() -> None:
    module = nn.Sequential(double(Bent("relu")), nn.Sigmoid()).eval()
    with pytest.raises(CaptureError, match="its last function makes probabilities"):
        made_fast.accelerate(module)
    made_fast.accelerate(module, call=lambda module, x, context: torch.logit(module(x)))
