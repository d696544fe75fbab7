"""A network in one call gives what its layers give one by one: results, gradients, gradients of gradients."""
# ruff: noqa: B023 - what closes over a loop is called in it

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from engines import network_engines
from models import ENSEMBLES
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from made_fast import MADE
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.layers import chains
from made_fast.models import whole
from made_fast.models.made import HIDDEN_ACTIVATIONS
from made_fast.outputs import Categorical, MixtureOfLogistics, MixtureOfNormals

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}
pytestmark = pytest.mark.usefixtures("network_backend")
every_engine = pytest.mark.parametrize("network_backend", network_engines(), indirect=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was run in one call."""
    found: list[Any] = []
    run = chains.Chain.run

    def counted(chain: chains.Chain, *arguments: Any) -> Any:
        found.append(len(chain.calls))
        return run(chain, *arguments)

    monkeypatch.setattr(chains.Chain, "run", counted)
    return found


def _layered(monkeypatch: pytest.MonkeyPatch, function: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(whole, "backend_for", lambda _: None)
        return function()


def _model(options: dict[str, Any], output: Any, dtype: torch.dtype, features: int = 9) -> MADE:
    torch.manual_seed(3)
    model = MADE(features, **options, output=output).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=dtype) * (0.5 if parameter.ndim > 1 else 0.3))
    return model


def _inputs(model: MADE, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, model.features, dtype=dtype, generator=generator)
    if model.output.name == "bernoulli":
        x = (x > 0).to(dtype)
    elif model.output.name == "spin":
        x = x.sign()
    elif model.output.name not in ("normal", "mixture_of_normals"):
        sizes = torch.tensor([len(each.values()) for each in model.conditionals])
        x = (torch.rand(rows, model.features, generator=generator) * sizes).floor().to(dtype)
    c = model.context_features
    return x.requires_grad_(), torch.randn(rows, c, dtype=dtype, generator=generator).requires_grad_() if c else None


def _gradients(model: MADE, x: Tensor, context: Tensor | None, function: Any) -> list[Tensor]:
    result = function()
    inputs = [each for each in (x, context, *model.parameters()) if each is not None and each.requires_grad]
    weight = torch.linspace(-1, 1, result.numel(), dtype=x.dtype).reshape(result.shape)
    found = torch.autograd.grad(result, inputs, weight, allow_unused=True)
    return [result.detach(), *(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True))]


def _same(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max()) + 1
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


OUTPUTS = {
    "bernoulli": "bernoulli",
    "spin": "spin",
    "normal": "normal",
    "mixture": MixtureOfNormals(2),
    "categorical": Categorical([2, 3, 1, 4, 2, 5, 3, 3, 2]),
    "embedded": Categorical(3, embedding=2),
    "levels": MixtureOfLogistics(2, levels=16),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_every_option(options: dict[str, Any], output: Any, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, rows in ((torch.float64, 70), (torch.float32, 5)):
        model = _model(options, output, dtype)
        x, context = _inputs(model, rows, dtype)
        for function in (lambda: model(x, context), lambda: model.log_prob(x, context)):
            found = _gradients(model, x, context, function)
            _same(found, _layered(monkeypatch, lambda: _gradients(model, x, context, function)), dtype)
            with torch.no_grad():
                torch.testing.assert_close(function(), found[0])
    assert calls == [1] * 8


@pytest.mark.parametrize("name", ENSEMBLES)
def test_every_ensemble(name: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(ENSEMBLES[name], "normal", torch.float64)
    x, context = _inputs(model, 66, torch.float64)
    for mask in (0, 1, 0):

        def function(mask: int = mask) -> Tensor:
            return model.log_prob(x, context, masks=mask)

        found = _gradients(model, x, context, function)
        _same(found, _layered(monkeypatch, lambda: _gradients(model, x, context, function)), torch.float64)
    assert calls == [1] * 3


@every_engine
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 63, 64, 65, 128, 200])
def test_every_number_of_rows(rows: int, monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> None:
    for dtype in (torch.float32, torch.float64):
        model = _model({"hidden_features": (11, 13), "direct": True, "context_features": 2}, "normal", dtype, 5)
        x, context = _inputs(model, rows, dtype)
        found = _gradients(model, x, context, lambda: model.log_prob(x, context))
        _same(
            found,
            _layered(monkeypatch, lambda: _gradients(model, x, context, lambda: model.log_prob(x, context))),
            dtype,
        )
    assert calls == [1, 1]


@pytest.mark.parametrize("context_features", [0, 2])
def test_a_flow_is_one_call(context_features: int, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        flow: Any = MaskedAutoregressiveFlow(4, 3, (12,), context_features).to(dtype)
        x, context = _inputs(flow.networks[0], 90, dtype)
        found = _gradients(flow, x, context, lambda: flow.log_prob(x, context))
        expected = _layered(monkeypatch, lambda: _gradients(flow, x, context, lambda: flow.log_prob(x, context)))
        _same(found, expected, dtype)
        z, log_det = flow.noise_of(x, context)
        grads = torch.autograd.grad(log_det.sum(), [x, *flow.parameters()], retain_graph=True, allow_unused=True)
        assert any(grad is not None and bool(grad.any()) for grad in grads)
        assert torch.autograd.grad(z.sum(), x)[0].any()  # one of both results alone
    assert calls == [3] * 4


def test_threads_change_nothing() -> None:
    """Blocks of rows and sums of weights are cut alike, whatever the number of threads."""
    models: tuple[tuple[Any, int], ...] = (
        (MADE(64, (300, 200), output="normal", context_features=3), 517),
        (MaskedAutoregressiveFlow(20, 3, (128, 128), 3), 700),
    )
    threads = torch.get_num_threads()
    for model, rows in models:
        x, context = _inputs(model if isinstance(model, MADE) else model.networks[0], rows, torch.float32)
        found = []
        try:
            for number in (1, 2, 3, 5, 9):
                torch.set_num_threads(number)
                found.append(_gradients(model, x, context, lambda: model.log_prob(x, context)))
        finally:
            torch.set_num_threads(threads)
        for others in found[1:]:
            assert all(map(torch.equal, found[0], others))


def test_several_threads_at_once() -> None:
    models = [_model({"hidden_features": (size, size)}, "normal", torch.float32) for size in (20, 30, 40, 50)]
    inputs = [_inputs(model, 200, torch.float32)[0] for model in models]

    def call(number: int) -> list[Tensor]:
        model, x = models[number % 4], inputs[number % 4]
        return _gradients(model, x, None, lambda: model.log_prob(x))

    expected = [call(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(call, range(40))):
            assert all(map(torch.equal, found, expected[number % 4]))


def test_every_function(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for activation in HIDDEN_ACTIVATIONS:
        for residual in (False, True):  # what a residual connection reads cannot be written over
            options = {"hidden_features": (12, 12, 12), "activation": activation, "residual": residual}
            model = _model(options, "normal", torch.float64)
            x, _ = _inputs(model, 20, torch.float64)
            found = _gradients(model, x, None, lambda: model.log_prob(x))
            expected = _layered(monkeypatch, lambda: _gradients(model, x, None, lambda: model.log_prob(x)))
            _same(found, expected, torch.float64)
    assert len(calls) == 2 * len(HIDDEN_ACTIVATIONS)


def test_derivatives_of_derivatives() -> None:
    for output, features in (("bernoulli", 3), ("spin", 3), (Categorical([2, 3]), 2), ("normal", 2)):
        options = {"hidden_features": (4,), "activation": "tanh", "direct": True, "context_features": 1}
        model = _model(options, output, torch.float64, features)
        x, context = _inputs(model, 2, torch.float64)
        if output != "normal":
            x = x.detach()
        names = [name for name, _ in model.named_parameters()]

        def function(x: Tensor, c: Tensor, *weights: Tensor, model: MADE = model, names: Any = names) -> Tensor:
            changed = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(model, changed, (x, c))

        inputs = (x, context, *(each.detach().clone().requires_grad_() for each in model.parameters()))
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_gradients_under_the_mask_are_exactly_zero_and_nothing_is_read_there(calls: list[Any]) -> None:
    model = _model({"hidden_features": (13,), "direct": True}, "normal", torch.float32)
    x, _ = _inputs(model, 40, torch.float32)
    expected = _gradients(model, x, None, lambda: model.log_prob(x))
    with torch.no_grad():
        for layer in model.masked_layers:
            layer.weight[~layer.mask] = torch.nan
    found = _gradients(model, x, None, lambda: model.log_prob(x))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    model.log_prob(x).sum().backward()
    for layer in model.masked_layers:
        assert layer.weight.grad is not None
        assert (layer.weight.grad[~layer.mask] == 0).all()
    assert len(calls) == 3


def test_shapes_and_layouts(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model({"hidden_features": (8,), "context_features": 2}, "normal", torch.float64)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, 9, dtype=torch.float64, generator=generator)
    c = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator)
    for x, context in ((rows, c), (rows.mT.contiguous().mT, c), (rows[:, ::2], c[:, ::2]), (rows[0, 0], c[0, 0])):
        expected = _layered(monkeypatch, lambda: model(x, context))
        torch.testing.assert_close(model(x, context), expected)
        torch.testing.assert_close(
            model.log_prob(x, context), _layered(monkeypatch, lambda: model.log_prob(x, context))
        )
    used = len(calls)
    assert used == 8
    assert model(rows[:0], c[:0]).shape == (0, 4, 18)
    assert model(rows, c[0, 0]).shape == (3, 4, 18)  # a context that broadcasts: by layers
    assert len(calls) == used


def test_weights_that_are_not_contiguous() -> None:
    model = _model({"hidden_features": (8, 8)}, "normal", torch.float64)
    x, _ = _inputs(model, 10, torch.float64)
    expected = _gradients(model, x, None, lambda: model.log_prob(x))
    other = copy.deepcopy(model)
    other.hidden[1].weight = torch.nn.Parameter(model.hidden[1].weight.detach().t().contiguous().t())
    _same(_gradients(other, x, None, lambda: other.log_prob(x)), expected, torch.float64)


def test_masks_that_change_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model({"hidden_features": (8,), "direct": True}, "normal", torch.float64)
    x, _ = _inputs(model, 10, torch.float64)
    before = model(x).detach()
    model.direct_layer.mask.data[:, 3] = False  # type: ignore[union-attr, index]
    assert not torch.equal(model(x), before)
    torch.testing.assert_close(model(x), _layered(monkeypatch, lambda: model(x)))


def test_hooks_and_parametrizations_are_called(calls: list[Any]) -> None:
    model = _model({"hidden_features": (8,)}, "normal", torch.float64)
    x, _ = _inputs(model, 10, torch.float64)
    before, seen = model(x), []
    used = len(calls)
    handle = model.hidden[0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(model(x), before)
    handle.remove()
    assert seen == [1]
    torch.nn.utils.parametrizations.weight_norm(model.hidden[0])
    torch.testing.assert_close(model(x), before)
    assert len(calls) == used


def test_who_watches_the_dispatcher_sees_layers(calls: list[Any]) -> None:
    model = _model({"hidden_features": (8,)}, "normal", torch.float64).eval()
    x, _ = _inputs(model, 16, torch.float64)
    x = x.detach()
    expected, used = model(x), len(calls)
    torch.testing.assert_close(torch.vmap(model)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    with torch.no_grad():
        traced = torch.jit.trace(model, (x,), check_trace=False)
    torch.testing.assert_close(traced(-x), model(-x))
    _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    assert tangent.isfinite().all()
    assert len(calls) == used + 1


def test_many_gradients_at_once_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model({"hidden_features": (8,)}, "normal", torch.float64)
    x, _ = _inputs(model, 6, torch.float64)
    result = model.log_prob(x)
    (jacobian,) = torch.autograd.grad(result, x, torch.eye(6, dtype=torch.float64), is_grads_batched=True)
    expected = torch.autograd.functional.jacobian(model.log_prob, x)
    torch.testing.assert_close(jacobian, expected)
    again = checkpoint(model.log_prob, x, use_reentrant=False)
    found = torch.autograd.grad(again.sum(), [x, *model.parameters()])
    _same(list(found), list(torch.autograd.grad(model.log_prob(x).sum(), [x, *model.parameters()])), torch.float64)
    _same(
        list(found),
        _layered(monkeypatch, lambda: list(torch.autograd.grad(model.log_prob(x).sum(), [x, *model.parameters()]))),
        torch.float64,
    )


def test_weights_that_change_before_the_way_back_are_noticed() -> None:
    model = _model({"hidden_features": (8,)}, "normal", torch.float64)
    x, _ = _inputs(model, 6, torch.float64)
    total = model.log_prob(x).sum()
    with torch.no_grad():
        model.hidden[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_rows_do_not_depend_on_threads_or_company(set_threads: Any) -> None:
    model = _model({"hidden_features": (64, 64)}, "normal", torch.float32)
    x, _ = _inputs(model, 3000, torch.float32)
    with torch.no_grad():
        alone = model.log_prob(x)
        set_threads(2)
        assert torch.equal(model.log_prob(x), alone)
        for a, b in ((0, 1), (64, 65), (100, 177)):
            assert torch.equal(model.log_prob(x[a:b]), alone[a:b])


def test_what_is_not_a_number_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model({"hidden_features": (8,)}, "normal", torch.float64)
    for bad in (torch.nan, torch.inf):
        x = torch.zeros(70, 9, dtype=torch.float64)
        x[65, 2] = bad
        found, expected = model(x), _layered(monkeypatch, lambda: model(x))
        assert torch.equal(found.isnan(), expected.isnan())
        torch.testing.assert_close(found[:65], expected[:65])


def test_copies_and_pickles() -> None:
    import pickle

    model = _model({"hidden_features": (8,)}, "normal", torch.float64)
    x, _ = _inputs(model, 6, torch.float64)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


def test_weights_of_another_shape_are_never_read(calls: list[Any]) -> None:
    """A layer whose weight was exchanged says what does not fit; nothing is read beyond its memory."""
    model = _model({"hidden_features": (8, 8)}, "normal", torch.float32)
    x, _ = _inputs(model, 10, torch.float32)
    model(x)
    used = len(calls)
    for change in (torch.zeros(8, 9).T.contiguous(), torch.zeros(2, 9), torch.zeros(72)):
        other = copy.deepcopy(model)
        other.hidden[0].weight.data = change
        with pytest.raises((RuntimeError, ValueError)):
            other(x)
    assert len(calls) == used
