"""Law 11: whatever changes the weights, the next draw is of the changed model: every way, on every kind of model and flow."""

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from changes import CHANGES
from models import made
from torch import Tensor, nn

import made_fast
from made_fast import MADE, MaskedLinear
from made_fast.compat.pytorch_made import MADE as PytorchMade
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.outputs.normal import Normal
from made_fast.testing import naive_sample


class Kind(NamedTuple):
    """A model, how it draws, and the same draw from what was made anew."""

    module: nn.Module
    draw: Callable[[], Tensor]
    fresh: Callable[[], Tensor]


class _Layer(nn.Linear):
    """A layer with a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class _Network(nn.Module):
    """A plain network of two layers, six variables with two parameters each."""

    def __init__(self) -> None:
        super().__init__()
        degrees = torch.arange(12) % 5
        self.first = _Layer(degrees[:, None] >= torch.arange(6))
        self.last = _Layer((torch.arange(12) // 2)[:, None] > degrees)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.last(torch.tanh(self.first(x)))
        return hidden


def _made(output: str, option: str, mask: int | None = None) -> Kind:
    model = made(output, option).train()
    options: dict[str, Any] = {"seed": 6, "mask": mask}
    return Kind(model, lambda: model.sample(200, **options), lambda: naive_sample(model, 200, **options))


def _captured() -> Kind:
    torch.manual_seed(3)
    module = _Network().double().eval()
    sampler = made_fast.accelerate(module, features=6, output=Normal())
    anew = lambda: made_fast.accelerate(module, features=6, output=Normal()).sample(40, seed=6)  # noqa: E731
    return Kind(module, lambda: sampler.sample(40, seed=6), anew)


def _anew(model: nn.Module, other: Any) -> Any:
    """Another model of the same structure with the weights that the layers of this one have now, however they are made."""
    other = other.to(next(model.parameters()).dtype)
    pairs = zip(
        *([each for each in one.modules() if isinstance(each, nn.Linear)] for one in (model, other)), strict=True
    )
    with torch.no_grad():
        for ours, theirs in pairs:
            for hook in ours._forward_pre_hooks.values():
                hook(ours, ())
            theirs.weight.copy_(ours.weight)
            theirs.bias.copy_(ours.bias)
    return other


def _flow() -> Kind:
    make = lambda: MaskedAutoregressiveFlow(5, 2, (12,), order="random").double()  # noqa: E731
    flow = make()
    return Kind(flow, lambda: flow.sample(20, seed=6), lambda: _anew(flow, make()).sample(20, seed=6))


def _inverse() -> Kind:
    make = lambda: MaskedAutoregressiveFlow(5, 2, (12,)).double()  # noqa: E731
    flow, z = make(), torch.randn(7, 5).double()
    return Kind(flow, lambda: flow.inverse(z).detach(), lambda: _anew(flow, make()).inverse(z).detach())


def _compat() -> Kind:
    make = lambda: PytorchMade(6, [20], 6).double().eval()  # noqa: E731
    model = make()
    return Kind(model, lambda: model.sample(30, seed=6), lambda: _anew(model, make()).sample(30, seed=6))


KINDS: dict[str, Callable[[], Kind]] = {
    "bernoulli": lambda: _made("bernoulli", "direct"),
    "mixed": lambda: _made("mixed", "residual"),
    "embedding": lambda: _made("embedding", "random"),
    "one-hot": lambda: _made("categorical", "random"),
    "ensemble": lambda: _made("bernoulli", "both"),
    "one mask": lambda: _made("bernoulli", "both", 2),
    "captured": _captured,
    "flow": _flow,
    "inverse": _inverse,
    "compat": _compat,
}


# Capturing takes most of the time; what it shares with the others is known by their changes.
QUICK = {"in place", "behind autograd", "new parameter", "pruned"}


def _marks(kind: str, change: str) -> list[Any]:
    return [pytest.mark.slow] if kind in ("captured", "compat") and change not in QUICK else []


@pytest.mark.parametrize(
    ("kind", "change"),
    [pytest.param(kind, change, marks=_marks(kind, change)) for kind, change in itertools.product(KINDS, CHANGES)],
)
def test_samples_are_never_stale(kind: str, change: str) -> None:
    module, draw, fresh = KINDS[kind]()
    before = draw()
    assert torch.equal(draw(), before)
    for time in range(2):
        CHANGES[change](module)
        now = draw()
        torch.testing.assert_close(now, fresh(), rtol=1e-9, atol=1e-9)
        assert not torch.equal(now, before), time
        assert torch.equal(draw(), now)  # nothing has changed, and from now on that is watched
        before = now


PLAIN: dict[str, Any] = {"hidden_features": (24,), "order": "random", "direct": True}
SHUFFLED: dict[str, Any] = {"hidden_features": (14, 11), "num_masks": 3, "direct": True}


def _another_order(model: MADE) -> None:
    model.load_state_dict(MADE(9, **{**PLAIN, "order": "reversed"}).double().state_dict())


def _assigned_order(model: MADE) -> None:
    model.load_state_dict(MADE(9, **{**PLAIN, "seed": 7}).double().state_dict(), assign=True)


def _cut_connections(model: MADE) -> None:
    model.direct_layer.mask[:, 3] = False


def _cut_behind_autograd(model: MADE) -> None:
    model.direct_layer.mask.data[:, 3] = False


def _turned_orders(model: MADE) -> None:
    model.ensemble.orders.copy_(model.ensemble.orders.flip(1))


def _other_masks(model: MADE) -> None:
    model.load_state_dict(MADE(9, **SHUFFLED, seed=8).double().state_dict(), assign=True)


@pytest.mark.parametrize("change", [_another_order, _assigned_order, _cut_connections, _cut_behind_autograd])
def test_masks_that_change_are_noticed(build: Any, change: Callable[[MADE], None]) -> None:
    model = build(PLAIN)
    before, frozen = model.sample(40, seed=6), model.sampler()
    change(model)
    assert not torch.equal(model.sample(40, seed=6), before)
    assert torch.equal(model.sample(40, seed=6), naive_sample(model, 40, seed=6))
    assert torch.equal(frozen.sample(40, seed=6), before)  # a sampler is a snapshot


@pytest.mark.parametrize("change", [_turned_orders, _other_masks])
def test_masks_of_an_ensemble_that_change_are_noticed(build: Any, change: Callable[[MADE], None]) -> None:
    model = build(SHUFFLED)
    frozen, one = model.sampler(), model.sampler(mask=2)
    before = model.sample(40, seed=6), model.sample(40, seed=6, mask=2)
    change(model)
    for mask, old in zip((None, 2), before, strict=True):
        drawn = model.sample(40, seed=6, mask=mask)
        assert not torch.equal(drawn, old)
        assert torch.equal(drawn, naive_sample(model, 40, seed=6, mask=mask))
    assert torch.equal(frozen.sample(40, seed=6), before[0])  # a snapshot, also of masks not drawn yet
    assert torch.equal(frozen.of_mask(2).sample(40, seed=6), before[1])
    assert torch.equal(one.sample(40, seed=6), before[1])


def test_masks_that_change_back_and_forth(build: Any) -> None:
    """New buffers may lie where old ones lay; each must be noticed."""
    model = build(PLAIN)
    masks = [model.direct_layer.mask.clone(), model.direct_layer.mask.clone()]
    masks[1][:, 3] = False
    for turn in range(12):
        model.direct_layer.mask = masks[turn % 2].clone()
        assert torch.equal(model.sample(20, seed=6), naive_sample(model, 20, seed=6)), turn


class _Drawing(nn.Module):
    """Draws in its forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        drawn: Tensor = self.model.sample(60, seed=6)
        return drawn


@pytest.mark.parametrize("kind", ["mixed", "ensemble", "flow"])
def test_weights_that_are_lent_for_a_call(kind: str) -> None:
    drawing = _Drawing(KINDS[kind]().module)
    before = drawing()
    lent = {name: -weight.detach() for name, weight in drawing.named_parameters()}
    now = torch.func.functional_call(drawing, lent, ())
    assert torch.equal(drawing(), before)
    drawing.load_state_dict({**drawing.state_dict(), **lent})
    assert torch.equal(drawing(), now)
    assert not torch.equal(now, before)


def test_networks_of_a_flow_that_are_replaced() -> None:
    make = lambda **options: MaskedAutoregressiveFlow(5, 3, (12,), **options).double()  # noqa: E731
    flow, z = make(), torch.randn(7, 5).double()
    before = flow.sample(9, seed=1), flow.inverse(z)
    for number in range(3):
        flow.networks[number] = make(seed=3).networks[number]
        x, now = flow.sample(9, seed=1), flow.inverse(z)
        assert not torch.equal(x, before[0])
        assert not torch.equal(now, before[1])
        torch.testing.assert_close(flow.noise_of(now)[0], z)
        torch.testing.assert_close(flow.sample_and_log_prob(9, seed=1)[1], flow.log_prob(x))
        before = x, now
    flow.networks.append(make(seed=4).networks[0])  # and one more
    x, log_prob = flow.sample_and_log_prob(9, seed=1)
    torch.testing.assert_close(log_prob, flow.log_prob(x))
    torch.testing.assert_close(flow.noise_of(flow.inverse(z))[0], z)
    del flow.networks[2:]
    torch.testing.assert_close(flow.noise_of(flow.inverse(z))[0], z)
    flow.networks[1] = MADE(5, (12,), output=Normal(floor=0.5)).double()  # of another floor than the flow counts with
    for use in (lambda: flow.inverse(z), lambda: flow.log_prob(z), lambda: flow.sample(2)):
        with pytest.raises(ValueError, match=r"networks must have 5 features and output Normal\(floor=0\.0001\), got"):
            use()


@pytest.mark.parametrize("attribute", ["activation", "output"])
def test_attributes_that_change(attribute: str) -> None:
    model = made("normal", "direct")
    before = model.sample(30, seed=6)
    if attribute == "activation":
        model.activation = "tanh"
    else:
        model.output = Normal(floor=3.0)
        model.conditionals = model.output.conditionals(model.features)
    assert not torch.equal(model.sample(30, seed=6), before)
    torch.testing.assert_close(model.sample(30, seed=6), naive_sample(model, 30, seed=6), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("option", ["direct", "both"])
@pytest.mark.parametrize("how", ["plain", "pruned"])
def test_weights_written_while_another_thread_draws(option: str, how: str) -> None:
    """When nothing is written any more, what is kept is of the weights as they are."""
    model = made("bernoulli", option, features=40)
    if how == "pruned":
        CHANGES["pruned"](model)
    drawing = threading.Event()

    def draw() -> None:
        while not drawing.is_set():
            model.sample(1)

    thread = threading.Thread(target=draw)
    thread.start()
    for _ in range(60):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.001)
    drawing.set()
    thread.join()
    now = model.sample(200, seed=6)
    torch.testing.assert_close(now, naive_sample(model, 200, seed=6))


def test_layers_with_something_round_them_are_refused() -> None:
    """As adapters are put round layers: what they add would not be drawn from, and knows no masks."""

    class Adapted(nn.Module):
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(9, 2, bias=False), nn.Linear(2, 12, bias=False)

        def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
            found: Tensor = self.base(x, *arguments, **options) + self.up(self.down(x))
            return found

    class Scaled(MaskedLinear):
        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            return 2 * super().forward(*arguments, **options)

    for options in ({}, {"num_masks": 2}):
        model = MADE(9, (12,), **options)
        base: Any = model.hidden[0]
        model.hidden[0] = Adapted(base)
        with pytest.raises(ValueError, match="layers must be MaskedLinear, got Adapted"):
            model.sample(3)
        scaled = Scaled(9, 12, base.mask)
        model.hidden[0] = scaled
        with pytest.raises(ValueError, match="layers must compute what MaskedLinear does"):
            model.sample(3)
        model.hidden[0] = base
        model.sample(3)
