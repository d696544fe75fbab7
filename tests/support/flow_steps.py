"""Flows of other libraries whose steps are taken by ``training.backward``, and the definition of a step."""

import copy
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from flow_densities import CONTEXT, FEATURES, inputs
from flow_peers import library, stirred
from torch import Tensor, nn

import made_fast
from made_fast.flows.adapters.densities import FlowNLL
from made_fast.training import backward

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


class Case(NamedTuple):
    """A flow of a library, whether it is one call after ``accelerate``, and whether it has a context."""

    make: Callable[[], Any]
    native: bool
    context: bool = False


def _zuko(name: str, context: int = 0, **options: Any) -> Callable[[], Any]:
    options = {"transforms": 3, "hidden_features": (12, 9), **options}
    return lambda: getattr(library("zuko").flows, name)(FEATURES, context, **options)


def _laplace(loc: Tensor, scale: Tensor) -> Any:
    return torch.distributions.Independent(torch.distributions.Laplace(loc, scale), 1)


def _zuko_flow(*, base: Any = None, buffer: bool = True, named: bool = False, turned: bool = False) -> Any:
    """A flow of one transform, or of two with a permutation between them, and a base of two tensors."""
    zuko = library("zuko")
    made = zuko.flows.MaskedAutoregressiveTransform(FEATURES, hidden_features=(12,))
    if turned:
        turn, order = zuko.transforms.PermutationTransform, torch.arange(FEATURES).flip(0)
        made = [made, zuko.lazy.UnconditionalTransform(turn, order, buffer=True), copy.deepcopy(made)]
    values = torch.zeros(FEATURES), torch.ones(FEATURES)
    given: Any = dict(zip(("loc", "scale"), values, strict=True)) if named else {}
    of = zuko.distributions.DiagNormal if base is None else base
    base = zuko.lazy.UnconditionalDistribution(of, *(() if named else values), buffer=buffer, **given)
    return zuko.flows.Flow(made, base)


def _nflows(**options: Any) -> Callable[[], Any]:
    return lambda: library("nflows.flows").MaskedAutoregressiveFlow(FEATURES, 12, 3, 2, **options)


def _nflows_flow(
    *,
    context: int = 0,
    base: str = "StandardNormal",
    embedding: Any = None,
    single: bool = False,
    composed: bool = False,
) -> Any:
    """A flow of two transforms, after each a permutation, or of one."""
    of, distributions = library("nflows.transforms"), importlib.import_module("nflows.distributions")
    affine, order = of.MaskedAffineAutoregressiveTransform, torch.tensor([2, 0, 1, 4, 3])
    options = {"context_features": context or None, "use_residual_blocks": not context}
    if single:
        transform = affine(FEATURES, 12, **options)
        transform = of.CompositeTransform([transform]) if composed else transform
    else:
        first, second = (affine(FEATURES, 12, **options) for _ in range(2))
        turns = of.Permutation(order), of.RandomPermutation(FEATURES), of.ReversePermutation(FEATURES)
        transform = of.CompositeTransform([turns[0], turns[1], first, turns[2], second, of.Permutation(order.clone())])
    return library("nflows.flows").Flow(transform, getattr(distributions, base)([FEATURES]), embedding)


def _normflows(name: str, context: bool = False, **options: Any) -> Any:
    nf = library("normflows")
    given = {"context_features": CONTEXT} if context else {}
    layers = [getattr(nf.flows, name)(FEATURES, **options, **given) for _ in range(2)]
    kind = nf.ConditionalNormalizingFlow if context else nf.NormalizingFlow
    return kind(nf.distributions.DiagGaussian(FEATURES, trainable=not context), layers)


CASES = {
    "zuko": Case(_zuko("MAF"), True),
    "zuko context": Case(_zuko("MAF", CONTEXT, randperm=True), True, True),
    "zuko residual": Case(_zuko("MAF", residual=True, activation=nn.ELU, passes=2), True),
    "zuko composed of one": Case(_zuko("MAF", transforms=1, activation=nn.Tanh), True),
    "zuko single": Case(_zuko_flow, True),
    "zuko single, named": Case(lambda: _zuko_flow(named=True), True),
    "zuko permuted": Case(lambda: _zuko_flow(turned=True), False),
    "zuko trained base": Case(lambda: _zuko_flow(buffer=False), False),
    "zuko other base": Case(lambda: _zuko_flow(base=_laplace), False),
    "zuko spline": Case(_zuko("NSF", CONTEXT, bins=4, transforms=2), False, True),
    "nflows": Case(_nflows(), True),
    "nflows blocks": Case(_nflows(use_residual_blocks=False, use_random_permutations=True), True),
    "nflows context": Case(lambda: _nflows_flow(context=CONTEXT), True, True),
    "nflows context unused": Case(lambda: _nflows_flow(context=CONTEXT), True),
    "nflows permuted": Case(_nflows_flow, True),
    "nflows single": Case(lambda: _nflows_flow(single=True), True),
    "nflows composed of one": Case(lambda: _nflows_flow(single=True, composed=True), True),
    "nflows dropout": Case(_nflows(use_residual_blocks=False, dropout_probability=0.3), True),
    "nflows normed": Case(_nflows(batch_norm_between_layers=True), False),
    "nflows embedding": Case(lambda: _nflows_flow(context=CONTEXT, embedding=nn.Linear(CONTEXT, CONTEXT)), False, True),
    "nflows trained base": Case(lambda: _nflows_flow(base="DiagonalNormal"), False),
    "normflows": Case(lambda: _normflows("MaskedAffineAutoregressive", hidden_features=12), False),
    "normflows context": Case(lambda: _normflows("MaskedAffineAutoregressive", True, hidden_features=12), False, True),
    "normflows spline": Case(
        lambda: _normflows("AutoregressiveRationalQuadraticSpline", num_blocks=1, num_hidden_channels=12, num_bins=4),
        False,
    ),
}
NATIVE = [name for name, case in CASES.items() if case.native]
QUICK = {"zuko context", "zuko single", "zuko spline", "nflows permuted", "nflows context", "normflows"}


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """A flow accelerated, and as the library has it, with the same parameters."""
    torch.manual_seed(0)
    flow = stirred(CASES[name].make(), dtype)
    return made_fast.accelerate(flow), flow


def rows(name: str, dtype: torch.dtype = torch.float64, count: int = 70) -> tuple[Tensor, Tensor | None]:
    x, c = (each.detach() * 0.2 for each in inputs(dtype, count))
    return x, c if CASES[name].context else None


def defined(flow: Any, x: Tensor, context: Tensor | None) -> Tensor:
    """The definition, by the library's own flow."""
    given = () if context is None else (context,)
    log_prob = flow.log_prob(x, *given) if hasattr(flow, "log_prob") else flow(*given).log_prob(x)
    loss = -log_prob.mean()
    loss.backward()
    return loss.detach()


def gradients(flow: Any, find: Callable[..., Tensor], x: Tensor, context: Tensor | None) -> list[Any]:
    """The loss, and the gradients of all parameters, which lose them."""
    loss, parameters = find(flow, x, context), list(flow.parameters())
    found = [loss, *(each.grad for each in parameters)]
    for each in parameters:
        each.grad = None
    return found


def same(found: list[Any], expected: list[Any], dtype: torch.dtype = torch.float64) -> None:
    """Raises unless these are the same gradients, none where there is none."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.dtype == theirs.dtype == dtype and not ours.requires_grad
            scale = float(theirs.abs().max().nan_to_num(1)) + 1
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def agree(name: str, ours: Any, theirs: Any, dtype: torch.dtype = torch.float64, count: int = 70) -> None:
    given = rows(name, dtype, count)
    same(gradients(ours, backward, *given), gradients(theirs, defined, *given), dtype)


def agree_or_fail_alike(ours: Any, theirs: Any, given: tuple[Any, Any]) -> bool:
    """Raises unless two flows have the same gradients, or fail in the same way and then have none; whether they fail."""
    outcomes: list[Any] = []
    for flow, find in ((ours, backward), (theirs, defined)):
        try:
            outcomes.append(gradients(flow, find, *given))
        except Exception as reason:
            outcomes.append((type(reason), str(reason)))
            assert all(each.grad is None for each in flow.parameters())
    if isinstance(outcomes[1], tuple):
        assert outcomes[0] == outcomes[1]
        return True
    same(*outcomes)
    return False


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each mean that is found in one call from now on."""
    found: list[int] = []
    plain = FlowNLL.write_gradients

    def counting(nll: FlowNLL, into: Any) -> Tensor | None:
        made = plain(nll, into)
        if made is not None:
            found.append(len(nll.x))
        return made

    monkeypatch.setattr(FlowNLL, "write_gradients", counting)
    return found
