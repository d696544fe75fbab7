"""Networks of other libraries, captured as they are: the same parameters along a draw, to rounding."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peer_models import CASES, Masked, Peer, randomized
from quick import every
from torch import Tensor

import made_fast
from made_fast.backends import reference
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.kinds import make_output
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.outputs.own import Own

pytestmark = pytest.mark.peers

ROWS = 8
MODULES = {"nflows": "nflows", "normflows": "normflows", "zuko": "zuko", "pyro": "pyro"}


@dataclass(frozen=True)
class Shown(Conditional):
    """x shows its parameters: a bounded sum of them, weighted so that none can stand for another, and the noise."""

    num_params: int = 1

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        weights = torch.arange(1, self.num_params + 1, dtype=params.dtype)
        return torch.sin((params * weights).sum(-1)) + uniforms[..., 0]

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def naive(case: Peer, module: Any, sampler: Any, context: Tensor | None) -> Tensor:
    """(ROWS, D): D passes of the library's own forward, for each row of contexts."""
    rows = torch.arange(ROWS)
    with torch.no_grad():
        x, _ = reference.naive_draw(
            lambda x: case.forward(module, x, context),
            sampler.order,
            sampler.conditionals,
            rows,
            seed=5,
            dtype=torch.float64,
        )
    return x


def accelerated(case: Peer, module: Any, output: Output) -> Any:
    return made_fast.accelerate(module, features=case.features, context_features=case.context_features, output=output)


def drawn(sampler: Any, context: Tensor | None, backend: str) -> Tensor:
    count = 1 if context is not None else ROWS
    return sampler.sample(count, context, seed=5, backend=backend).reshape(ROWS, -1)


def test_the_matrix_is_large() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 45
    assert {case.library for case in CASES} == {*MODULES, "stack"}


@pytest.mark.skipif("MADE_FAST_PEERS" not in os.environ, reason="the libraries are optional")
@pytest.mark.parametrize("name", MODULES)
def test_the_libraries_are_installed(name: str) -> None:
    importlib.import_module(MODULES[name])


@pytest.mark.parametrize("case", every(9, CASES, lambda case: case.name))
def test_parameters_along_a_draw_are_those_of_the_library(case: Peer) -> None:
    if case.library in MODULES:
        pytest.importorskip(MODULES[case.library])
    module = case.build()
    sampler = accelerated(case, module, Own(Shown(case.params)))
    assert sampler.capture.difference <= 1e-12
    context = torch.randn(ROWS, case.context_features, dtype=torch.float64) if case.context_features else None
    expected = naive(case, module, sampler, context)
    assert (drawn(sampler, context, "reference") - expected).abs().max() <= 1e-12
    assert case.levels is None or sampler.num_steps == case.levels
    assert sampler.macs <= 0.8 * sampler.dense_macs
    assert len(set(expected.flatten().tolist())) > ROWS * (case.features - 1) / 2  # the noise reaches it


@pytest.mark.parametrize("case", every(7, [case for case in CASES if case.params < 3][::4], lambda case: case.name))
def test_compiled_draws_are_those_of_the_library(case: Peer) -> None:
    if case.library in MODULES:
        pytest.importorskip(MODULES[case.library])
    module = case.build()
    sampler = accelerated(case, module, Normal() if case.params == 2 else make_output("bernoulli"))
    context = torch.randn(ROWS, case.context_features, dtype=torch.float64) if case.context_features else None
    assert (drawn(sampler, context, "auto") - naive(case, module, sampler, context)).abs().max() <= 1e-8


def test_new_masks_are_noticed() -> None:
    torch.manual_seed(0)
    module = randomized(Masked(9, [30, 30], natural=False, masks=5)).eval()
    sampler = made_fast.accelerate(module, features=9)
    orders = set()
    for _ in range(5):
        assert torch.equal(sampler.sample(20, seed=1), made_fast.accelerate(module, features=9).sample(20, seed=1))
        orders.add(tuple(sampler.order.tolist()))
        module.update_masks()
    assert len(orders) == 5
