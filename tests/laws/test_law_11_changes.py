"""Law 11: whatever changes the weights, the next draw is of the changed model: every way, on every kind of model and flow."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from changes import CHANGES
from models import made
from torch import Tensor, nn

import made_fast
from made_fast import MADE
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
