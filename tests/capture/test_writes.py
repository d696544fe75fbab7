"""Writes in place are read as values where nothing else shares what is written, and taken apart by torch elsewhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import made_fast

FEATURES = 4


def _once(h: Tensor, c: Tensor) -> Tensor:
    h += c
    return h


def _twice(h: Tensor, c: Tensor) -> Tensor:
    before = h * 2
    h += c
    h.mul_(0.5)
    return h + before


def _inplace_relu(h: Tensor, c: Tensor) -> Tensor:
    return F.relu(h - c, inplace=True)


def _old_and_new(h: Tensor, c: Tensor) -> Tensor:
    before = torch.tanh(h)
    h.add_(c, alpha=3)
    return before - h


def _through_a_view(h: Tensor, c: Tensor) -> Tensor:
    view = h.view(-1, 2, FEATURES // 2)
    h.add_(c)
    return h + view.reshape(h.shape)


def _into_a_view(h: Tensor, c: Tensor) -> Tensor:
    h[:, 1:] += c[1:]
    return h


def _into_a_reshape(h: Tensor, c: Tensor) -> Tensor:
    h.reshape(-1).mul_(2)
    return h + c


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "once": (_once, True),
    "twice": (_twice, True),
    "a ReLU": (_inplace_relu, True),
    "old and new": (_old_and_new, True),
    "through a view": (_through_a_view, False),
    "into a view": (_into_a_view, False),
    "into a reshape": (_into_a_reshape, False),
}


class Network(nn.Module):
    """Parameters by a strictly lower matrix, and what a function makes of them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(FEATURES, FEATURES)), nn.Parameter(torch.randn(FEATURES))
        self.register_buffer("mask", torch.ones(FEATURES, FEATURES).tril(-1))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(F.linear(x, self.weight * self.mask), self.shift)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_writes_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, directly = FUNCTIONS[name]
    torch.manual_seed(0)
    module, apart = Network(function).eval(), []
    decompositions = torch.export.ExportedProgram.run_decompositions

    def counted(self: Any, table: Any) -> Any:
        apart.append(1)
        return decompositions(self, table)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", counted)
    sampler = made_fast.accelerate(module, bounded=True)
    assert sampler.capture.difference < 1e-12
    assert bool(apart) != directly
    x = torch.randn(50, FEATURES, dtype=torch.float64)
    with torch.no_grad():
        expected = module.double()(x)
    torch.testing.assert_close(sampler.program.to(torch.float64).evaluate(x, None), expected, rtol=1e-6, atol=1e-6)
