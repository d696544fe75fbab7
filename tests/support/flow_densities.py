"""Flows of other libraries in their quick direction, as they are and accelerated."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from flow_peers import library, stirred
from torch import Tensor, nn

import made_fast
from made_fast.flows.adapters import networks, nflows, zuko

FEATURES, CONTEXT, ROWS = 5, 2, 70
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}

Density = Callable[[Any, Tensor, Tensor], Any]


class Case(NamedTuple):
    """A flow of a library, its density of x given c, and the calls that it takes: (networks, head) each."""

    make: Callable[[], Any]
    density: Density
    calls: list[tuple[int, str]]
    context: bool = False


def _zuko(name: str, *, context: int = 0, **options: Any) -> Callable[[], Any]:
    options = {"transforms": 3, "hidden_features": (12, 9), **options}
    return lambda: getattr(library("zuko").flows, name)(FEATURES, context, **options)


def _nflows(**options: Any) -> Callable[[], Any]:
    return lambda: library("nflows.flows").MaskedAutoregressiveFlow(FEATURES, 12, 3, 2, **options)


def _nflows_transform(name: str, **options: Any) -> Callable[[], Any]:
    options = {"features": FEATURES, "hidden_features": 12, **options}
    return lambda: getattr(library("nflows.transforms"), name)(**options)


def _normflows(name: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(library("normflows").flows, name)(FEATURES, *arguments, **options)


def _pyro(context: int = 0, **options: Any) -> Callable[[], Any]:
    library("pyro")
    nets, transforms = importlib.import_module("pyro.nn"), importlib.import_module("pyro.distributions.transforms")
    if context:
        net = lambda: nets.ConditionalAutoRegressiveNN(FEATURES, context, [12, 9], **options)  # noqa: E731
        return lambda: transforms.ConditionalAffineAutoregressive(net())
    return lambda: transforms.AffineAutoregressive(nets.AutoRegressiveNN(FEATURES, [12, 9], **options))


def _mixed() -> Any:
    """Affine transforms apart from one another, with others between them."""
    of = library("nflows.transforms")
    affine, order = _nflows_transform("MaskedAffineAutoregressiveTransform"), torch.tensor([2, 0, 1, 4, 3])
    return of.CompositeTransform(
        [
            *(
                of.ReversePermutation(FEATURES),
                affine(),
                of.RandomPermutation(FEATURES),
                of.Permutation(order),
                affine(),
            ),
            *(of.PointwiseAffineTransform(0.5, 2.0), affine(), of.RandomPermutation(FEATURES)),
            _nflows_transform("MaskedPiecewiseRationalQuadraticAutoregressiveTransform", tails="linear", num_bins=4)(),
        ]
    )


def _plain(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow().log_prob(x)


def _given(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow(c).log_prob(x)


def _log_prob(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow.log_prob(x)


def _forward(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow(x)


def _forward_given(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow(x, c)


def _inverse(flow: Any, x: Tensor, c: Tensor) -> Any:
    return flow.inverse(x)


def _sampled(flow: Any, x: Tensor, c: Tensor) -> Any:
    y = flow(x)
    return y, flow.log_abs_det_jacobian(x, y)


def _sampled_given(flow: Any, x: Tensor, c: Tensor) -> Any:
    return _sampled(flow.condition(c), x, c)


ONE, SPLINE = [(1, "parameters")], "MaskedPiecewiseQuadraticAutoregressiveTransform"
AFFINE = "MaskedAffineAutoregressiveTransform"
ZUKO_CHAIN, NFLOWS_CHAIN = [(3, "softclip_scale")], [(3, "softplus_scale")]
NARROW = {"transforms": 1, "bins": 4}
CASES: dict[str, Case] = {
    "zuko": Case(_zuko("MAF"), _plain, ZUKO_CHAIN),
    "zuko context": Case(_zuko("MAF", context=CONTEXT, randperm=True), _given, ZUKO_CHAIN, True),
    "zuko residual": Case(_zuko("MAF", residual=True, activation=nn.ELU), _plain, ZUKO_CHAIN),
    "zuko tanh": Case(_zuko("MAF", activation=nn.Tanh, passes=2, hidden_features=()), _plain, ZUKO_CHAIN),
    "zuko single": Case(_zuko("MAF", transforms=1, activation=nn.SiLU), _plain, [(1, "softclip_scale")]),
    "zuko spline": Case(_zuko("NSF", bins=4, transforms=2, context=CONTEXT), _given, ONE * 2, True),
    "zuko polynomials": Case(_zuko("SOSPF", degree=2, polynomials=2, transforms=1), _plain, ONE),
    "nflows": Case(_nflows(), _log_prob, NFLOWS_CHAIN),
    "nflows blocks": Case(_nflows(use_residual_blocks=False, use_random_permutations=True), _log_prob, NFLOWS_CHAIN),
    "nflows random masks": Case(
        _nflows(use_residual_blocks=False, use_random_masks=True, activation=torch.tanh), _log_prob, NFLOWS_CHAIN
    ),
    "nflows context": Case(
        _nflows_transform(AFFINE, context_features=CONTEXT), _forward_given, [(1, "softplus_scale")], True
    ),
    "nflows context unused": Case(
        _nflows_transform(AFFINE, context_features=CONTEXT, use_residual_blocks=False),
        _forward,
        [(1, "softplus_scale")],
    ),
    "nflows blocks with context": Case(
        _nflows_transform(AFFINE, context_features=CONTEXT, use_residual_blocks=False, activation=F.elu),
        _forward_given,
        [(1, "softplus_scale")],
        True,
    ),
    "nflows spline": Case(_nflows_transform(SPLINE, num_bins=4, tails="linear"), _forward, ONE),
    "nflows mixed": Case(_mixed, _forward, [(2, "softplus_scale"), (1, "softplus_scale"), *ONE]),
    "normflows affine": Case(_normflows("MaskedAffineAutoregressive", 12), _forward, ONE),
    "normflows gated": Case(
        _normflows("MaskedAffineAutoregressive", 12, context_features=CONTEXT), _forward_given, ONE, True
    ),
    "normflows spline": Case(
        _normflows("AutoregressiveRationalQuadraticSpline", 1, 12, num_bins=4, init_identity=False), _inverse, ONE
    ),
    "pyro": Case(_pyro(), _sampled, ONE),
    "pyro skip": Case(_pyro(skip_connections=True, nonlinearity=nn.Tanh()), _sampled, ONE),
    "pyro context": Case(_pyro(CONTEXT), _sampled_given, ONE, True),
}
QUICK = {"zuko context", "zuko spline", "nflows", "nflows context", "normflows gated", "pyro skip"}


def pair(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """A flow accelerated, and as the library has it, with the same parameters."""
    torch.manual_seed(0)
    flow = stirred(case.make(), dtype)
    return made_fast.accelerate(flow), flow


def inputs(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randn(rows, FEATURES, dtype=dtype, generator=generator).requires_grad_(),
        torch.randn(rows, CONTEXT, dtype=dtype, generator=generator).requires_grad_(),
    )


def everything(flow: Any, density: Density, x: Tensor, c: Tensor) -> list[Tensor]:
    """Results and the gradients of everything."""
    found = density(flow, x, c)
    results = [found] if isinstance(found, Tensor) else list(found)
    weights = torch.linspace(-1, 1, len(x), dtype=x.dtype)
    total = sum((each.sin().reshape(len(x), -1).sum(1) * weights).sum() for each in results)
    wanted = [x, c, *flow.parameters()]
    made = torch.autograd.grad(total, wanted, allow_unused=True)  # type: ignore[arg-type]
    return [*results, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, made, strict=True))]


def agree(case: Case, ours: Any, theirs: Any, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> None:
    x, c = inputs(dtype, rows)
    for found, expected in zip(
        everything(ours, case.density, x, c), everything(theirs, case.density, x, c), strict=True
    ):
        scale = float(expected.detach().abs().max()) + 1
        torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def linears(flow: nn.Module) -> list[Any]:
    """All its linear layers, masked ones among them."""
    return [each for each in flow.modules() if isinstance(each, nn.Linear)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What is run in one call from now on, however small it is: how many networks, and the head."""
    monkeypatch.setattr(networks, "_LEAST_MACS", 0)
    found: list[tuple[int, str]] = []
    run = networks.run_finite

    def counting(chain: Any, head: str, *arguments: Any) -> Any:
        made = run(chain, head, *arguments)
        if made is not None:
            found.append((len(chain.calls), head))
        return made

    for each in (networks, nflows, zuko):
        monkeypatch.setattr(each, "run_finite", counting)
    return found
