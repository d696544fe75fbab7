"""Loss and gradients in one call: the numbers of ``loss.backward()``, whatever the model, and what was there is added to."""

import copy
import re

import pytest
import torch
from torch import nn

from made_fast import MADE
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.layers.chains import Chain
from made_fast.outputs import Categorical, Conditional, MixtureOfNormals, Normal, Own
from made_fast.training import backward

D, C = 6, 2
BITS = (torch.rand(70, D, generator=torch.Generator().manual_seed(0)) < 0.3).float()
REALS = torch.randn(70, D, generator=torch.Generator().manual_seed(1)).cumsum(1)
CONTEXT = torch.randn(70, C, generator=torch.Generator().manual_seed(2))

MODELS = {
    "bits": (lambda: MADE(D, (16, 9), direct=True), BITS, None),
    "normal": (lambda: MADE(D, (16,), output=Normal()).double(), REALS, None),
    "mixture": (lambda: MADE(D, (16,), output=MixtureOfNormals(2)), REALS, None),
    "context": (lambda: MADE(D, (16,), context_features=C), BITS, CONTEXT),
    "flow": (lambda: MaskedAutoregressiveFlow(D, 3, (16, 16)), REALS, None),
    "flow with context": (lambda: MaskedAutoregressiveFlow(D, 3, (16,), context_features=C), REALS, CONTEXT),
}
BY_AUTOGRAD = {
    "embedded": (lambda: MADE(D, (16,), output=Categorical(3, embedding=2)), BITS, None),
    "evaluated": (lambda: MADE(D, (16,), num_masks=3).eval(), BITS, None),
    "subclass": (lambda: type("Mine", (MADE,), {})(D, (16,)), BITS, None),
    "half": (lambda: MADE(D, (16,)).bfloat16(), BITS, None),
    "one context for all": (lambda: MaskedAutoregressiveFlow(D, 2, (16,), context_features=C), REALS, CONTEXT[0]),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    make, x, context = {**MODELS, **BY_AUTOGRAD}[name]
    return make(), x, context


def by_autograd(model: nn.Module, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    loss = -(model.log_prob(x) if context is None else model.log_prob(x, context)).mean()
    loss.backward()
    return loss.detach()


def check_same(model: nn.Module, other: nn.Module) -> None:
    for (name, here), there in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (here.grad is None) == (there.grad is None), name
        if here.grad is not None:
            exact = here.dtype == torch.bfloat16
            torch.testing.assert_close(
                here.grad, there.grad, **({} if exact else {"atol": 1e-5, "rtol": 1e-4}), msg=name
            )


@pytest.mark.parametrize("name", [*MODELS, *BY_AUTOGRAD])
def test_loss_and_gradients_are_those_of_autograd(name: str) -> None:
    model, x, context = made(name)
    other = copy.deepcopy(model)
    for rows in (slice(None), slice(0, 1), slice(0, 40, 2)):  # the gradients of all three are added up
        given = context if context is None or context.ndim == 1 else context[rows]
        found, expected = backward(model, x[rows], given), by_autograd(other, x[rows], given)
        assert found.shape == () and not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        check_same(model, other)


@pytest.mark.parametrize("name", [*MODELS, *BY_AUTOGRAD])
def test_who_finds_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, context = made(name)
    calls: list[int] = []
    plain = Chain.write_gradients
    monkeypatch.setattr(Chain, "write_gradients", lambda self, *given: calls.append(1) or plain(self, *given))
    backward(model, x, context)
    assert len(calls) == (name in MODELS)


def test_what_is_frozen_or_unused_has_no_gradient() -> None:
    model, x, _ = made("bits")
    model.hidden[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    other = copy.deepcopy(model)
    backward(model, x)
    by_autograd(other, x, None)
    check_same(model, other)
    assert model.unused.grad is None and model.hidden[0].weight.grad is None


def test_masked_weights_have_gradients_of_zero() -> None:
    model, x, _ = made("bits")
    backward(model, x)
    for layer in model.masked_layers:
        assert (layer.weight.grad[layer.mask == 0] == 0).all()


@pytest.mark.parametrize("kind", ["hook", "accumulated", "tied", "rows that require gradients", "graph on a gradient"])
def test_whoever_watches_a_gradient_sees_it(kind: str) -> None:
    model, x, _ = made("flow")
    x = x.clone()
    seen: list[torch.Size] = []
    if kind == "tied":
        first, second = model.networks[0].hidden[0], model.networks[1].hidden[0]
        second.weight = first.weight
    other, other_x = copy.deepcopy(model), x.clone()
    weight = model.networks[0].parameters_layer.weight
    if kind == "hook":
        weight.register_hook(lambda grad: seen.append(grad.shape))
    if kind == "accumulated":
        weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.shape))
    if kind == "rows that require gradients":
        x.requires_grad_()
        other_x.requires_grad_()
    if kind == "graph on a gradient":
        weight.grad = (weight * 0).sum() + torch.zeros_like(weight)
    backward(model, x)
    by_autograd(other, other_x, None)
    check_same(model, other)
    assert seen == ([weight.shape] if kind in ("hook", "accumulated") else [])
    if x.requires_grad:
        torch.testing.assert_close(x.grad, other_x.grad)


def test_a_loop_of_steps_learns_what_autograd_learns() -> None:
    model, x, context = made("flow with context")
    other = copy.deepcopy(model)
    losses: list[list[float]] = [[], []]
    for taken, of, step in zip(losses, (model, other), (backward, by_autograd), strict=True):
        optimizer = torch.optim.Adam(of.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            taken.append(step(of, x, context).item())
            optimizer.step()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0] - 0.5


def test_a_module_that_knows_log_prob_alone() -> None:
    class Coin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return -nn.functional.softplus(-self.logit).expand(len(x))

    coin = Coin()
    assert backward(coin, BITS).item() == pytest.approx(0.6931, abs=1e-4)
    assert coin.logit.grad.item() == pytest.approx(-0.5)


def test_a_density_with_parameters_of_its_own() -> None:
    class Scaled(Conditional):
        num_params, num_draws, native_draw = 1, 1, None
        log_scale = torch.zeros((), requires_grad=True)

        def log_prob(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return -(x - params[..., 0]).abs() * torch.exp(-self.log_scale) - self.log_scale

        def draw(self, params: torch.Tensor, uniforms: torch.Tensor, decoding: object = None) -> torch.Tensor:
            raise NotImplementedError

    output = Scaled()
    model = MADE(D, (16,), output=Own(output))
    backward(model, REALS)
    found, output.log_scale.grad = output.log_scale.grad, None
    by_autograd(model, REALS, None)
    torch.testing.assert_close(found, output.log_scale.grad)


@pytest.mark.parametrize(
    ("name", "x", "context", "says"),
    [
        ("bits", BITS[:, :5], None, "x must have shape (..., 6)"),
        ("bits", torch.full((2, D), float("nan")), None, "x must"),
        ("bits", BITS, CONTEXT, "context must be None"),
        ("context", BITS, None, "context must have shape (..., 2), got None"),
        ("context", BITS, CONTEXT[:3], "context must have shape"),
        ("flow", torch.full((2, D), float("inf")), None, "x must be finite"),
        ("flow with context", REALS, CONTEXT * float("nan"), "context must be finite"),
    ],
)
def test_refusals(name: str, x: torch.Tensor, context: torch.Tensor | None, says: str) -> None:
    model = made(name)[0]
    with pytest.raises(ValueError, match=re.escape(says)):
        backward(model, x, context)
    assert all(each.grad is None for each in model.parameters())


def test_without_gradients_it_says_so() -> None:
    model, x, _ = made("bits")
    with torch.no_grad(), pytest.raises(ValueError, match="gradients enabled"):
        backward(model, x)


def test_no_rows_are_what_autograd_makes_of_them() -> None:
    model, _, _ = made("bits")
    assert torch.isnan(backward(model, torch.empty(0, D)))
