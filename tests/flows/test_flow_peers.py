"""Flows of other libraries: the same samples, densities and gradients as the library's own, in levels."""

import copy
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flow_peers import library, same, stirred
from quick import some
from torch import Tensor, nn

import made_fast
from made_fast.flows.adapters import accelerate_flow, inverters

pytestmark = pytest.mark.peers

FEATURES, CONTEXT = 5, 2


@pytest.fixture(autouse=True)
def _quiet(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)


def _gradients(value: Tensor, module: nn.Module, *others: Tensor) -> list[Tensor]:
    wanted = [*[each for each in module.parameters() if each.requires_grad], *others]
    found = torch.autograd.grad(value.sin().sum(), wanted, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(wanted, found, strict=True)]


NFLOWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "residual": ("MaskedAffineAutoregressiveTransform", {"hidden_features": 12}, "compiled"),
    "context": (
        "MaskedAffineAutoregressiveTransform",
        {"hidden_features": 12, "context_features": CONTEXT},
        "compiled",
    ),
    "feed_forward": (
        "MaskedAffineAutoregressiveTransform",
        {"hidden_features": 9, "use_residual_blocks": False},
        "compiled",
    ),
    "random_mask": (
        "MaskedAffineAutoregressiveTransform",
        {"hidden_features": 12, "use_residual_blocks": False, "random_mask": True},
        "compiled",
    ),
    "batch_norm": ("MaskedAffineAutoregressiveTransform", {"hidden_features": 12, "use_batch_norm": True}, "compiled"),
    "narrow": ("MaskedAffineAutoregressiveTransform", {"hidden_features": 3}, "compiled"),
    "linear": ("MaskedPiecewiseLinearAutoregressiveTransform", {"hidden_features": 12, "num_bins": 4}, "levels"),
    "quadratic": (
        "MaskedPiecewiseQuadraticAutoregressiveTransform",
        {"hidden_features": 12, "num_bins": 4, "tails": "linear", "tail_bound": 3.0},
        "levels",
    ),
    "rational": (
        "MaskedPiecewiseRationalQuadraticAutoregressiveTransform",
        {"hidden_features": 12, "num_bins": 4, "tails": "linear", "tail_bound": 3.0, "context_features": CONTEXT},
        "levels",
    ),
}


@pytest.mark.parametrize("case", some([*NFLOWS], {"context", "quadratic"}))
def test_nflows_transforms(case: str) -> None:
    name, options, how = NFLOWS[case]
    transform = stirred(getattr(library("nflows.transforms"), name)(features=FEATURES, **options))
    ours = accelerate_flow(transform)
    (inverter,) = inverters(ours)
    assert inverter.how == how
    assert inverter.difference < (1e-6 if case == "linear" else 1e-10)  # the library has fp32 knots there
    context = torch.randn(9, CONTEXT).double() if "context_features" in options else None
    z = torch.rand(9, FEATURES).double() if case == "linear" else torch.randn(9, FEATURES).double()
    x, log_det = ours.inverse(z, context)
    their_x, their_log_det = transform.inverse(z, context)
    same(x, their_x)
    same(log_det, their_log_det)
    same(ours(x, context), transform(x, context))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_an_nflows_flow(dtype: torch.dtype) -> None:
    flows = library("nflows.flows")
    options = {"use_random_permutations": True, "batch_norm_between_layers": True}
    flow = stirred(flows.MaskedAutoregressiveFlow(FEATURES, 16, 3, 2, **options), dtype)
    ours = accelerate_flow(flow)
    assert [each.how for each in inverters(ours)] == ["compiled"] * 3
    assert isinstance(ours, flows.MaskedAutoregressiveFlow)
    found = []
    for each in (ours, flow):
        torch.manual_seed(3)  # the library draws fp32 noise
        noise = torch.randn(20, FEATURES, dtype=dtype)
        torch.manual_seed(3)
        found.append((each._transform.inverse(noise), each.log_prob(noise)))
        if dtype == torch.float32:
            found[-1] += (each.sample(20), each.sample_and_log_prob(7))
    same(found[0], found[1], 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.slow
def test_an_nflows_flow_with_context_and_embedding() -> None:
    nflows = library("nflows")
    transforms, distributions = library("nflows.transforms"), library("nflows.distributions")
    parts = []
    for _ in range(2):
        parts += [transforms.MaskedAffineAutoregressiveTransform(FEATURES, 16, context_features=CONTEXT)]
        parts += [transforms.RandomPermutation(FEATURES)]
    base = distributions.ConditionalDiagonalNormal([FEATURES], nn.Linear(CONTEXT, 2 * FEATURES))
    embedding = nn.Linear(3, CONTEXT)
    flow = stirred(nflows.flows.Flow(transforms.CompositeTransform(parts), base, embedding), torch.float32)
    ours = accelerate_flow(flow)
    context = torch.randn(4, 3)
    found = []
    for each in (ours, flow):
        torch.manual_seed(5)
        found.append((each.sample(6, context), each.sample_and_log_prob(3, context)))
    assert found[0][0].shape == (4, 6, FEATURES)
    same(found[0], found[1], 1e-4)


ZUKO: dict[str, tuple[str, dict[str, Any], str]] = {
    "maf": ("MAF", {}, "compiled"),
    "maf_context": ("MAF", {"context": CONTEXT, "randperm": True}, "compiled"),
    "maf_residual": ("MAF", {"residual": True, "hidden_features": (12, 12)}, "compiled"),
    "coupling": ("MAF", {"passes": 2, "context": CONTEXT}, "compiled"),
    "nsf": ("NSF", {"bins": 4}, "levels"),
    "nsf_context": ("NSF", {"bins": 4, "context": CONTEXT, "randperm": True}, "levels"),
    "sospf": ("SOSPF", {"degree": 2, "polynomials": 2}, "levels"),
    "nsf_passes": ("NSF", {"bins": 4, "passes": 2}, "levels"),
}


@pytest.mark.parametrize("case", some([*ZUKO], {"maf", "coupling"}))
def test_zuko_flows(case: str) -> None:
    name, options, how = ZUKO[case]
    flow = stirred(
        getattr(library("zuko").flows, name)(FEATURES, **{"transforms": 2, "hidden_features": (16,), **options})
    )
    ours = accelerate_flow(flow)
    assert [each.how for each in inverters(ours)] == [how] * 2
    if "passes" in options:
        assert all(each.num_levels == 2 for each in inverters(ours))
    context = torch.randn(3, CONTEXT).double().requires_grad_() if "context" in options else None
    others = () if context is None else (context,)
    found = []
    for each in (ours, flow):
        torch.manual_seed(3)
        own = each(context)
        x, log_prob = own.rsample_and_log_prob((4,))
        sample = own.sample((2,))
        found.append((x, log_prob, sample, own.log_prob(sample), *_gradients(x, each, *others)))
        found[-1] += tuple(_gradients(own.rsample((2,)), each, *others))
    assert not found[0][2].requires_grad
    same(found[0], found[1], 1e-9)


@pytest.mark.slow
def test_gradients_pass_gradcheck() -> None:
    for name in ("MAF", "NSF"):
        flow = stirred(getattr(library("zuko").flows, name)(3, 2, transforms=1, hidden_features=(8,)))
        ours = accelerate_flow(flow)
        z, context = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (3, 2))
        assert torch.autograd.gradcheck(lambda z, c, ours=ours: ours.transform(c).inv(z), (z, context))


@pytest.mark.parametrize("case", some(["affine", "glu", "spline", "permuted"], {"glu"}))
def test_normflows(case: str) -> None:
    normflows = library("normflows")
    if case == "affine":
        flow = normflows.flows.MaskedAffineAutoregressive(FEATURES, 12)
    elif case == "glu":
        flow = normflows.flows.MaskedAffineAutoregressive(FEATURES, 12, context_features=CONTEXT)
    else:
        flow = normflows.flows.AutoregressiveRationalQuadraticSpline(
            FEATURES, 1, 12, num_bins=4, permute_mask=case == "permuted"
        )
    flow = stirred(flow)
    ours = accelerate_flow(flow)
    context = torch.randn(8, CONTEXT).double() if case == "glu" else None
    z = torch.randn(8, FEATURES).double()
    call = [{"context": context}] if context is not None else [{}]
    for options in call:
        for direction in ("forward", "inverse"):
            same(getattr(ours, direction)(z, **options), getattr(flow, direction)(z, **options))
    base = normflows.distributions.DiagGaussian(FEATURES).double()
    if context is None:
        model = normflows.NormalizingFlow(base, [flow])
        faster = accelerate_flow(model)
        found = []
        for each in (faster, model):
            torch.manual_seed(1)
            found.append((each.sample(6), each.log_prob(z)))
        same(found[0], found[1])


@pytest.fixture
def double() -> Iterator[None]:
    """The library's own inverse makes tensors of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", some(["plain", "stable", "skip", "permuted"], {"stable"}))
def test_pyro(case: str) -> None:
    library("pyro")
    pyro_nn, dist = importlib.import_module("pyro.nn"), importlib.import_module("pyro.distributions")
    transforms = importlib.import_module("pyro.distributions.transforms")
    options = {"skip_connections": case == "skip"}
    if case == "permuted":
        options["permutation"] = torch.randperm(FEATURES)
    net = pyro_nn.AutoRegressiveNN(FEATURES, [12, 12], **options)
    transform = stirred(transforms.AffineAutoregressive(net, stable=case == "stable"))
    base = dist.Normal(torch.zeros(FEATURES).double(), torch.ones(FEATURES).double()).to_event(1)
    theirs = dist.TransformedDistribution(base, [transform])
    ours = accelerate_flow(theirs)
    y = torch.randn(4, 3, FEATURES).double()
    same(ours.log_prob(y), theirs.log_prob(y))
    same(_gradients(ours.log_prob(y), transform), _gradients(theirs.log_prob(y), transform))
    x = ours.transforms[0].inv(y)
    same(x, transform.inv(y))
    same(transform(x), y)
    torch.manual_seed(2)
    sample = ours.sample((4,))
    torch.manual_seed(2)
    same(sample, theirs.sample((4,)))
    same(ours.log_prob(sample), theirs.log_prob(sample))  # of the cached way back


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_pyro_with_context() -> None:
    library("pyro")
    pyro_nn = importlib.import_module("pyro.nn")
    transforms = importlib.import_module("pyro.distributions.transforms")
    net = pyro_nn.ConditionalAutoRegressiveNN(FEATURES, CONTEXT, [12])
    transform = stirred(transforms.ConditionalAffineAutoregressive(net))
    ours = accelerate_flow(transform)
    y, context = torch.randn(7, FEATURES).double(), torch.randn(7, CONTEXT).double()
    for c in (context, context[0]):
        same(ours.condition(c).inv(y), transform.condition(c).inv(y))


def _maf(**options: Any) -> tuple[Any, Any]:
    flow = stirred(library("zuko").flows.MAF(FEATURES, transforms=1, hidden_features=(8,)), torch.float32)
    return flow, accelerate_flow(flow, **options)


def test_stale_parameters() -> None:
    z = torch.randn(6, FEATURES)
    flow, ours = _maf()
    before = ours().transform.inv(z).detach()
    with torch.no_grad():
        next(flow.parameters()).add_(1)
    after = ours().transform.inv(z).detach()
    assert not torch.allclose(before, after)
    same(after, flow().transform.inv(z).detach(), 1e-4)
    flow, ours = _maf(stale="raise")
    next(flow.parameters()).data.mul_(2)
    with pytest.raises(RuntimeError, match="have changed"):
        ours().transform.inv(z)
    flow, ours = _maf(stale="keep")
    before = ours().transform.inv(z).detach()
    next(flow.parameters()).data.mul_(2)
    assert torch.equal(before, ours().transform.inv(z).detach())


@pytest.mark.slow
def test_the_original_is_left_alone() -> None:
    flow = library("zuko").flows.NSF(FEATURES, transforms=2, hidden_features=(8,)).train()
    state = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    kinds = [type(module) for module in flow.modules()]
    ours = accelerate_flow(flow)
    assert flow.training
    assert kinds == [type(module) for module in flow.modules()]
    assert all(a is b for a, b in zip(flow.parameters(), ours.parameters(), strict=True))
    for name, tensor in flow.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert list(ours.state_dict()) == list(state)


def test_refusals() -> None:
    for wrong, message in ((nn.Linear(2, 2), "found none in Linear"), (3, "must be a torch module")):
        with pytest.raises(ValueError, match=message):
            accelerate_flow(wrong)
    flow = library("zuko").flows.MAF(FEATURES, transforms=1, hidden_features=(8,))
    for door in (accelerate_flow, made_fast.accelerate):
        with pytest.raises(ValueError, match="stale must be one of"):
            door(flow, stale="never")
    options = {"features": 5, "context_features": 2, "output": "normal", "layout": "variable-major", "backend": "cpp"}
    for name, value in {**options, "call": lambda module, x, context: module(x)}.items():
        with pytest.raises(ValueError, match=f"^{name} must be left out for a flow"):
            made_fast.accelerate(flow, **{name: value})


@pytest.mark.slow
def test_training_mode_with_chance_in_it_is_refused() -> None:
    transforms = library("nflows.transforms")
    for options in ({"dropout_probability": 0.3}, {"use_batch_norm": True}):
        transform = transforms.MaskedAffineAutoregressiveTransform(FEATURES, 8, **options)
        ours = accelerate_flow(transform)
        with pytest.raises(ValueError, match=r"call eval\(\) first"):
            ours.inverse(torch.randn(3, FEATURES))
        assert ours.eval().inverse(torch.randn(3, FEATURES))[0].shape == (3, FEATURES)


@pytest.mark.slow
def test_a_copy_is_a_flow_of_its_own() -> None:
    flow, ours = _maf()
    z = torch.randn(6, FEATURES)
    copied = copy.deepcopy(ours)
    assert torch.equal(copied().transform.inv(z), ours().transform.inv(z))
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(copied().transform.inv(z), ours().transform.inv(z))
    same(ours().transform.inv(z), flow().transform.inv(z), 1e-4)


def test_a_leak_is_found() -> None:
    flow = library("zuko").flows.MAF(FEATURES, transforms=1, hidden_features=(8,))
    flow.transform.hyper[0].mask.fill_(True) if hasattr(flow.transform, "hyper") else [
        each.hyper[0].mask.fill_(True) for each in flow.transform.transforms
    ]
    with pytest.raises(ValueError, match="must be autoregressive"):
        accelerate_flow(flow)


@pytest.mark.slow
def test_the_benchmark_compares_before_it_times() -> None:
    library("zuko")
    flows = importlib.import_module("benchmarks.suites.flows")
    row = flows.one_case("zuko MAF", 6, 8, 3, 2, 0.0)
    assert row["way"] == "compiled"
    assert float(row["difference"]) < 1e-4
