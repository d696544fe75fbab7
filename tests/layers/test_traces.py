"""Whatever records a model computes the same as the model for another input: nothing goes round the dispatcher meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from made_fast import MADE, accelerate, outputs
from made_fast.compat import nflows
from made_fast.flows import MaskedAutoregressiveFlow

D, ROWS = 9, 20  # as many rows as it takes for the compiled products
Way = Callable[[Callable[[Tensor], Tensor], Tensor], Callable[[Tensor], Tensor]]


class _Called(nn.Module):
    """A method of a model as a module."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self.model, self.method)(x)
        return found


class _Sub(Tensor):
    pass


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Redirect(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _compiled(backend: str) -> Way:
    def compiled(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        torch._dynamo.reset()
        made: Callable[[Tensor], Tensor] = torch.compile(function, backend=backend, fullgraph=True)
        made(x)
        return made

    return compiled


def _under(mode: Any) -> Way:
    def entered(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        def call(y: Tensor) -> Tensor:
            with mode():
                return function(y)

        return call

    return entered


def _fx(mode: str) -> Way:
    return lambda f, x: make_fx(f, tracing_mode=mode, _allow_non_fake_inputs=True)(x)  # type: ignore[no-any-return]


WAYS: dict[str, Way] = {
    "torch.jit.trace": lambda f, x: torch.jit.trace(f, (x,), check_trace=False),
    "torch.jit.freeze": lambda f, x: torch.jit.freeze(torch.jit.trace(f, (x,), check_trace=False)),
    "make_fx": _fx("real"),
    "make_fx, fake": _fx("fake"),
    "make_fx, functionalized": lambda f, x: make_fx(torch.func.functionalize(f))(x),
    "functionalize": lambda f, x: torch.func.functionalize(f),
    "vmap": lambda f, x: torch.func.vmap(f),
    "subclass": lambda f, x: lambda y: f(y.as_subclass(_Sub)).as_subclass(Tensor),
    "dispatch mode": _under(_Watch),
    "function mode": _under(_Redirect),
    "export": lambda f, x: torch.export.export(f, (x,), strict=False).module(),  # type: ignore[arg-type]
    "export, strict": lambda f, x: torch.export.export(f, (x,), strict=True).module(),  # type: ignore[arg-type]
    "compile": _compiled("eager"),
    "compile, aot": _compiled("aot_eager"),
}
MODELS: dict[str, Callable[[], MADE]] = {
    "plain": lambda: MADE(D, (32, 32)),
    "gelu, direct": lambda: MADE(D, (32,), activation="gelu", direct=True),
    "categories": lambda: MADE(D, (32,), output=outputs.Categorical(2)),
    "embedded categories": lambda: MADE(D, (32,), output=outputs.Categorical(2, embedding=3)),
    "several kinds": lambda: MADE(D, (32,), output=outputs.Mixed([("normal", 1), ("bernoulli", 1)] * 4 + ["normal"])),
    "ensemble": lambda: MADE(D, (32,), num_masks=3),
    "endless ensemble": lambda: MADE(D, (16,), num_masks=0),
    "conditioned on masks": lambda: MADE(D, (32,), mask_conditioning=True),
    "flow": lambda: MaskedAutoregressiveFlow(D, 2, (32,)),  # type: ignore[dict-item,return-value]
}
QUICK = {
    *(("torch.jit.trace", model) for model in MODELS if model != "endless ensemble"),
    *((way, "plain") for way in WAYS if not way.startswith(("compile", "export"))),
    *(("functionalize", model) for model in ("ensemble", "several kinds")),
}


def _rows(seed: int) -> Tensor:
    return torch.randint(0, 2, (ROWS, D), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("way", "model"),
    [
        pytest.param(way, model, marks=() if (way, model) in QUICK else pytest.mark.slow)
        for way in WAYS
        for model in MODELS
    ],
)
def test_a_recording_computes_what_the_model_does(way: str, model: str) -> None:
    made = MODELS[model]().eval()
    for method in ("log_prob",) if model == "flow" else ("forward", "log_prob"):
        function = _Called(made, method).eval()
        for learns in (False, True):
            if learns and model == "categories" and way in ("export, strict", "compile", "compile, aot"):
                continue  # torch cannot compile a gradient of a gradient function
            with torch.set_grad_enabled(learns):
                found = WAYS[way](function, _rows(1))(_rows(2))
                torch.testing.assert_close(found, function(_rows(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_was_recorded_stays_behind() -> None:
    """What is kept for later calls is made of real tensors, whoever called first."""
    for name in ("plain", "several kinds", "ensemble", "embedded categories", "flow"):
        make = MODELS[name]
        made, again = make().eval(), _rows(2)
        with FakeTensorMode(allow_non_fake_inputs=True):
            made.log_prob(torch.zeros(ROWS, D))
        with torch.device("meta"):
            made.log_prob(again)
        make_fx(_Called(made, "log_prob"), tracing_mode="fake", _allow_non_fake_inputs=True)(_rows(1))
        expected = make().eval()
        expected.load_state_dict(made.state_dict())
        assert torch.equal(made.log_prob(again), expected.log_prob(again)), name


@pytest.mark.filterwarnings("ignore")
def test_samples_cannot_be_recorded() -> None:
    """A recording would hold the memory into which an engine wrote, not the draw."""
    context, net = torch.zeros(3, 2), nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(net.weight.tril(-1))
    flow, other = MaskedAutoregressiveFlow(2, 2, (8,), 2).requires_grad_(False), nflows.MADE(2, 8, 2)
    model, plain, quick = MADE(2, (8,), context_features=2), MADE(2, (8,)).sampler(), accelerate(net)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "model": lambda c: model.sample(1, c, seed=0),
        "sampler without context": lambda c: plain.sample(3, seed=0) + c,
        "flow": lambda c: flow.sample(1, c, seed=0),
        "inverse": lambda c: flow.inverse(c, c),
        "accelerated": lambda c: quick.sample(3, seed=0) + c,
        "compat": lambda c: other.sample(1, c, seed=0),
    }
    for name, call in calls.items():
        call(context)
        for way in ("torch.jit.trace", "make_fx", "make_fx, fake"):
            with pytest.raises(ValueError, match=r"sample must be called outside|must be a tensor whose values"):
                assert WAYS[way](call, context) is None, (name, way)
    for name in ("model", "flow", "inverse"):
        with pytest.raises((ValueError, RuntimeError), match=r"values can be read|setup_context|vmap"):
            torch.func.vmap(calls[name])(context[:, None])
    for mode in (_Watch, _Redirect):  # which record nothing
        with mode():
            assert torch.equal(calls["flow"](context), flow.sample(1, context, seed=0))
