"""The quick direction of accelerated flows: one native call, the library's own numbers, gradients and training."""

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from flow_peers import library, same, stirred
from quick import some
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import made_fast
from made_fast.flows.adapters import networks

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed"),
]

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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What was run in one call: how many networks, and the head."""
    found: list[tuple[int, str]] = []
    run = networks.run

    def counted(chain: Any, head: str, *arguments: Any, **options: Any) -> Any:
        made = run(chain, head, *arguments, **options)
        found.append((len(chain), head))
        return made

    monkeypatch.setattr("made_fast.flows.adapters.networks.run", counted)
    return found


def _pair(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """A flow accelerated, and as the library has it, with the same parameters."""
    torch.manual_seed(0)
    flow = stirred(case.make(), dtype)
    return made_fast.accelerate(flow), flow


def _inputs(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randn(rows, FEATURES, dtype=dtype, generator=generator).requires_grad_(),
        torch.randn(rows, CONTEXT, dtype=dtype, generator=generator).requires_grad_(),
    )


def _all(flow: Any, density: Density, x: Tensor, c: Tensor) -> list[Tensor]:
    """Results and the gradients of everything."""
    found = density(flow, x, c)
    results = [found] if isinstance(found, Tensor) else list(found)
    weights = torch.linspace(-1, 1, len(x), dtype=x.dtype)
    total = sum((each.sin().reshape(len(x), -1).sum(1) * weights).sum() for each in results)
    wanted = [x, c, *flow.parameters()]
    made = torch.autograd.grad(total, wanted, allow_unused=True)  # type: ignore[arg-type]
    return [*results, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, made, strict=True))]


def _agree(case: Case, ours: Any, theirs: Any, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> None:
    x, c = _inputs(dtype, rows)
    for found, expected in zip(_all(ours, case.density, x, c), _all(theirs, case.density, x, c), strict=True):
        scale = float(expected.detach().abs().max()) + 1
        torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("name", some([*CASES], QUICK))
def test_density_and_gradients_are_those_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    for dtype in (torch.float64, torch.float32):
        ours, theirs = _pair(case, dtype)
        assert calls == []
        _agree(case, ours, theirs, dtype)
        assert calls == case.calls
        optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
        for _ in range(2):
            x, c = _inputs(dtype)
            found = case.density(ours, x, c)
            loss = sum(each.square().mean() for each in ([found] if isinstance(found, Tensor) else found))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        calls.clear()
        _agree(case, ours, theirs, dtype, 3)
        assert calls == case.calls
        calls.clear()
        with torch.no_grad():
            same(case.density(ours, *_inputs(dtype)), case.density(theirs, *_inputs(dtype)), TOLERANCE[dtype] * 10)
        assert calls == case.calls
        calls.clear()


@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_a_training_run_has_the_loss_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    curves = []
    for accelerated in (True, False):
        torch.manual_seed(0)
        flow = case.make()
        model = made_fast.accelerate(flow) if accelerated else flow
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        generator, losses = torch.Generator().manual_seed(1), []
        x, c = (torch.randn(500, n, generator=generator) for n in (FEATURES, CONTEXT))
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
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["zuko context", "nflows context", "nflows mixed"])
def test_derivatives_of_derivatives(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    found = []
    for flow in (ours, theirs):
        x, c = _inputs(rows=4)
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


def _linears(flow: nn.Module) -> list[Any]:
    return [each for each in flow.modules() if isinstance(each, nn.Linear)]


def _scaled(module: nn.Module) -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(module, "weight", Twice())


class _Bent(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.1 * x


def _bend(flow: Any) -> None:
    for module in flow.modules():
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, _Bent())
        if "activation" in vars(module):
            module.activation = torch.sinh


def _write(values: Callable[[Tensor], Any], name: str) -> Callable[[Any], None]:
    def change(flow: Any) -> None:
        with torch.no_grad():
            values(getattr(_linears(flow)[1], name))

    return change


# What is done to the layers that both share, and whether the native call is still taken afterwards.
CHANGES: dict[str, tuple[Callable[[Any], object], bool]] = {
    "hook": (lambda flow: _linears(flow)[0].register_forward_hook(lambda m, i, o: 1.5 * o), False),
    "pre-hook": (lambda flow: _linears(flow)[0].register_forward_pre_hook(lambda m, i: (2 * i[0],)), False),
    "gradient hook": (lambda flow: _linears(flow)[1].register_full_backward_hook(lambda m, i, o: (2 * i[0],)), False),
    "pruned": (lambda flow: prune.l1_unstructured(_linears(flow)[1], "weight", 0.5), False),
    "parametrized": (lambda flow: _scaled(_linears(flow)[1]), False),
    "other activation": (_bend, False),
    "forward": (
        lambda flow: setattr(_linears(flow)[0], "forward", lambda x: F.linear(x, _linears(flow)[0].weight)),
        False,
    ),
    "mask of others": (_write(lambda mask: mask.copy_(mask.flip(0)), "mask"), True),
    "nan": (_write(lambda weight: weight[0].fill_(torch.nan), "weight"), False),
    "infinite bias": (_write(lambda bias: bias[1].fill_(torch.inf), "bias"), False),
    "dropped": (lambda flow: [setattr(each, "bias", None) for each in _linears(flow)], False),
    "frozen": (lambda flow: [each.bias.requires_grad_(False) for each in _linears(flow)[1:2]], True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_what_is_done_to_layers_is_seen(name: str, change: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    x, c = _inputs()
    before = case.density(ours, x, c)
    calls.clear()
    do, native = CHANGES[change]
    do(ours)
    if change == "other activation":
        do(theirs)
    wanted = [each for each in ours.parameters() if each.requires_grad] + [x]
    found = []
    for flow in (ours, theirs):
        result = case.density(flow, x, c)
        found.append([result, *torch.autograd.grad(result.sum(), wanted, allow_unused=True)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9, equal_nan=True)
    if change not in ("gradient hook", "frozen"):
        assert not torch.equal(found[0][0], before)
    if native:
        assert calls == case.calls
    else:
        assert case.calls[0] not in calls


def test_a_float_mask_of_other_numbers_is_a_product_too(calls: list[Any]) -> None:
    case = CASES["nflows"]
    ours, theirs = _pair(case)
    _linears(ours)[0].mask.mul_(0.5)
    _agree(case, ours, theirs)
    assert case.calls[0] not in calls


def test_a_permutation_that_changes_is_seen(calls: list[Any]) -> None:
    case = CASES["nflows"]
    ours, theirs = _pair(case)
    _agree(case, ours, theirs)
    permutations = [each for name, each in ours.named_buffers() if name.endswith("_permutation")]
    permutations[1].copy_(torch.tensor([1, 2, 3, 4, 0]))
    _agree(case, ours, theirs)
    assert calls == case.calls * 2
    permutations[1].copy_(torch.tensor([1, 2, 3, 4, 4]))  # a library takes this too
    _agree(case, ours, theirs)
    assert calls == case.calls * 2 + [(1, "softplus_scale")] * 3


def test_other_transforms_in_the_place_of_affine_ones(calls: list[Any]) -> None:
    zuko = library("zuko")
    case = CASES["zuko"]
    ours, theirs = _pair(case)
    for flow in (ours, theirs):
        flow.transform.transforms[1].univariate = lambda shift, scale: zuko.transforms.MonotonicAffineTransform(
            shift, scale, slope=0.1
        )
    _agree(case, ours, theirs)
    assert (1, "parameters") in calls and case.calls[0] not in calls


@pytest.mark.parametrize("name", ["zuko", "nflows", "zuko spline"])
def test_numbers_that_are_not_finite_are_those_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case, torch.float32)
    for value in (torch.nan, torch.inf, -torch.inf, 1e38):
        for column in (0, FEATURES - 1):
            x, c = _inputs(torch.float32)
            with torch.no_grad():
                x[3, column] = value
            try:
                expected = case.density(theirs, x, c)
            except Exception as reason:
                with pytest.raises(type(reason)):
                    case.density(ours, x, c)
                continue
            found = case.density(ours, x, c)
            for each in (found, expected):
                each.sum().backward()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    ours.zero_grad()
    gradients = []
    for flow in (ours, theirs):
        x, c = _inputs(torch.float32)
        weight = torch.ones(ROWS)
        weight[2] = torch.nan
        gradients.append(torch.autograd.grad((case.density(flow, x, c) * weight).sum(), [x, *flow.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert any(bool(each.isnan().any()) for each in gradients[0])


WRONG: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "width": (lambda x, c: (x[:, :-1], c)),
    "dtype": (lambda x, c: (x.half(), c)),
    "integers": (lambda x, c: (x.long(), c)),
    "context": (lambda x, c: (x, c[:, :1])),
    "rows": (lambda x, c: (x, c[:-1])),
    "exchanged": (lambda x, c: (torch.cat([x, c[:, :1]], 1), c[:, 1:])),
}


def _outcome(function: Callable[[], Any]) -> Any:
    """What a call gives, or how it fails."""
    try:
        return function()
    except Exception as reason:
        return type(reason), str(reason)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["zuko context", "nflows context"])
def test_wrong_arguments_are_treated_as_in_the_library(name: str, wrong: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    x, c = WRONG[wrong](*(each.detach() for each in _inputs()))
    found, expected = (_outcome(lambda flow=flow: case.density(flow, x, c)) for flow in (ours, theirs))  # type: ignore[misc]
    if isinstance(expected, Tensor):
        same(found, expected)
    else:
        assert found == expected
    assert case.calls[0] not in calls


@pytest.mark.parametrize("name", ["zuko context", "nflows", "zuko spline"])
def test_shapes(name: str) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    x, c = (each.detach() for each in _inputs())
    shapes = [(x[:0], c[:0]), (x[:1], c[:1]), (x.T.contiguous().T, c), (x.expand(3, ROWS, FEATURES)[1], c)]
    if name.startswith("zuko"):
        blocks = (x.reshape(7, 10, FEATURES), c.reshape(7, 10, CONTEXT))
        shapes += [(x[0], c[0]), (x, c[0]), (x[:, None], c[None, :3]), blocks]
    for each in shapes:
        found, expected = (_outcome(lambda f=flow, e=each: case.density(f, *e)) for flow in (ours, theirs))  # type: ignore[misc]
        if isinstance(expected, Tensor):
            assert found.shape == expected.shape
            same(found, expected)
        else:
            assert found == expected


def _watched(case: Case, flow: Any) -> list[Tensor]:
    """What transforms, forward mode and autocast make of a density."""
    x, c = (each.detach() for each in _inputs(torch.float32, 6))

    def density(x: Tensor) -> Any:
        return case.density(flow, x, c)

    with torch.autograd.forward_ad.dual_level():
        tangent = torch.autograd.forward_ad.unpack_dual(density(torch.autograd.forward_ad.make_dual(x, x))).tangent
    with torch.autocast("cpu", torch.bfloat16):
        rounded = density(x)
    assert tangent is not None
    return [torch.func.jacrev(density)(x), torch.func.jvp(density, (x,), (x,))[1], tangent, rounded]


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_who_watches_sees_the_library(name: str, calls: list[Any]) -> None:
    ours, theirs = _pair(CASES[name], torch.float32)
    same(_watched(CASES[name], ours), _watched(CASES[name], theirs), 1e-4)
    assert calls == []


def test_weights_of_a_functional_call(calls: list[Any]) -> None:
    case = CASES["nflows mixed"]
    ours, theirs = _pair(case)
    weights = {name: (2 * each).detach().requires_grad_() for name, each in ours.named_parameters()}
    found = []
    for flow in (ours, theirs):
        log_det = torch.func.functional_call(flow, weights, (_inputs()[0],))[1]
        found.append(torch.autograd.grad(log_det.sum(), [*weights.values()]))
    same(found[0], found[1], 1e-9)
    assert calls == case.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_a_compiled_flow_is_that_of_the_library(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    x, c = (each.detach() for each in _inputs())
    compiled = torch.compile(lambda x, c: case.density(ours, x, c), backend="aot_eager")
    same(compiled(x, c), case.density(theirs, x, c))
    assert calls == []


@pytest.mark.parametrize("name", ["zuko", "nflows", "pyro"])
def test_a_hook_that_is_gone_and_a_hook_of_the_network(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    handle = _linears(ours)[0].register_forward_hook(lambda m, i, o: 2 * o)
    _agree(case, ours, theirs)
    assert case.calls[0] not in calls
    handle.remove()
    calls.clear()
    _agree(case, ours, theirs)
    assert calls == case.calls
    net = next(each for each in ours.modules() if "_one_call" in vars(each))
    seen: list[Any] = []
    net.register_forward_hook(lambda m, i, o: seen.append(o))
    _agree(case, ours, theirs)
    assert seen


def test_chance_and_batches_run_as_in_the_library(calls: list[Any]) -> None:
    of = library("nflows.transforms")
    x = torch.randn(ROWS, FEATURES)
    for options in ({"dropout_probability": 0.5}, {"use_batch_norm": True}):
        transform = of.MaskedAffineAutoregressiveTransform(FEATURES, 12, **options)
        ours = made_fast.accelerate(transform)
        found = []
        for flow in (ours, copy.deepcopy(transform)):
            torch.manual_seed(0)
            found.append(flow.train()(x))
        same(found[0], found[1])
        assert calls == []
        same(ours.eval()(x), transform.eval()(x), 1e-4)
        assert calls == ([(1, "softplus_scale")] if "dropout_probability" in options else [])
        calls.clear()


@pytest.mark.parametrize("name", ["zuko context", "nflows", "normflows spline", "pyro"])
def test_copies_pickles_and_states(name: str, calls: list[Any]) -> None:
    case = CASES[name]
    ours, theirs = _pair(case)
    x, c = (each.detach() for each in _inputs())
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
