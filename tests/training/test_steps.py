"""Steps in flat tensors: the numbers of steps parameter by parameter, and a model that is afterwards what it was before."""

import copy

import pytest
import torch
from torch import nn

from made_fast import MADE, training
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.outputs import Categorical, MixtureOfLogistics, MixtureOfNormals, Normal
from made_fast.training import steps

D = 6
BITS = (torch.rand(130, D, generator=torch.Generator().manual_seed(0)) < 0.3).float()
REALS = torch.randn(130, D, generator=torch.Generator().manual_seed(1)).cumsum(1)
LEVELS = (REALS * 20 + 128).round().clamp(0, 255)

MODELS = {
    "bits": (lambda: MADE(D, (16, 9), direct=True), BITS),
    "residual": (lambda: MADE(D, (16, 16), residual=True, activation="silu"), BITS),
    "ensemble": (lambda: MADE(D, (16,), num_masks=3), BITS),
    "normal": (lambda: MADE(D, (16,), output=Normal()), REALS),
    "mixture": (lambda: MADE(D, (16,), output=MixtureOfNormals(2)), REALS),
    "spins": (lambda: MADE(D, (16,), output="spin"), 2 * BITS - 1),
    "fp64": (lambda: MADE(D, (16,), output=Normal()).double(), REALS),
    "levels": (lambda: MADE(D, (16,), output=MixtureOfLogistics(2)), LEVELS),
    "categories": (lambda: MADE(D, (16,), output=Categorical([3, 2, 4, 2, 2, 2])), BITS),
    "no hidden layer": (lambda: MADE(D, ()), BITS),
    "flow": (lambda: MaskedAutoregressiveFlow(D, 3, (16, 16)), REALS),
}
# What autograd finds the gradients of, as before.
OTHERS = {
    "embedded": (lambda: MADE(D, (16,), output=Categorical(3, embedding=2)), BITS),
    "conditioned": (lambda: MADE(D, (16,), num_masks=3, mask_conditioning=True), BITS),
    "subclass": (lambda: type("Mine", (MADE,), {})(D, (16,)), BITS),
    "half": (lambda: MADE(D, (16,)).bfloat16(), BITS),
}


def fitted(model: nn.Module, rows: torch.Tensor, **options: object) -> training.History:
    options = {"epochs": 3, "batch_size": 40, "learning_rate": 0.01, "averaging": 0.5, **options}
    return training.fit(model, rows[:100], rows[100:], **options)


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, rows = {**MODELS, **OTHERS}[name]
    return make(), rows


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_can_be_flat", lambda parameters: False)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_flat_steps_give_the_numbers_of_steps_by_parameter(name, monkeypatch):
    model, rows = made(name)
    flat, other = model, copy.deepcopy(model)
    found = fitted(flat, rows)
    one_by_one(monkeypatch)
    expected = fitted(other, rows)
    for here, there in zip(found.epochs, expected.epochs, strict=True):
        assert here.train_nll == pytest.approx(there.train_nll, rel=1e-5)
        assert here.valid_nll == pytest.approx(there.valid_nll, rel=1e-5)
    for (key, here), there in zip(flat.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_who_finds_the_gradients(name, monkeypatch):
    model, rows = made(name)
    taken = []
    plain = steps.Steps.gradients

    def watched(self, rows, seen):
        taken.append(len(rows.x))
        return plain(self, rows, seen)

    monkeypatch.setattr(steps.Steps, "gradients", watched)
    fitted(model, rows, epochs=1)
    assert taken == ([] if name in MODELS else [40, 40, 20])


def test_the_memory_of_a_model_is_its_own_before_and_after():
    model, rows = made("flow")
    places = {name: (parameter.data_ptr(), id(parameter)) for name, parameter in model.named_parameters()}
    seen = []
    fitted(model, rows, on_epoch=lambda epoch: seen.append([each.data_ptr() for each in model.parameters()]))
    assert {name: (each.data_ptr(), id(each)) for name, each in model.named_parameters()} == places
    assert seen == [[address for address, _ in places.values()]] * 3
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in model.parameters())


def test_an_epoch_that_is_broken_off_leaves_weights_where_they_were(monkeypatch):
    model, rows = made("bits")
    places, before = [each.data_ptr() for each in model.parameters()], copy.deepcopy(model.state_dict())
    counted = []

    def interrupted(self, keep, plain=steps._FlatSteps.update):
        counted.append(keep)
        if len(counted) == 3:
            raise KeyboardInterrupt
        plain(self, keep)

    monkeypatch.setattr(steps._FlatSteps, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(model, rows)
    assert [each.data_ptr() for each in model.parameters()] == places
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_takes_no_part_stays_as_it_is():
    model, rows = made("bits")
    model.hidden[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3, 3)))
    frozen = model.hidden[0].weight.detach().clone()
    history = fitted(model, rows)
    assert history.epochs[-1].train_nll < history.epochs[0].train_nll
    assert torch.equal(model.hidden[0].weight, frozen)
    assert torch.equal(model.unused, torch.ones(3, 3)), "decay is for what has gradients"


def test_a_frozen_layer_is_trained_round_in_flat_steps(monkeypatch):
    model, rows = made("bits")
    model.hidden[0].weight.requires_grad_(False)
    other = copy.deepcopy(model)
    fitted(model, rows)
    one_by_one(monkeypatch)
    fitted(other, rows)
    for here, there in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)], ids=["unfrozen", "frozen"])
def test_a_layer_that_is_frozen_or_not_from_an_epoch_on(first: bool, then: bool, monkeypatch) -> None:
    """Moments of the others stay, and the average goes on to the weights that stand still."""
    model, rows = made("bits")
    model.hidden[0].weight.requires_grad_(first)
    other = copy.deepcopy(model)

    def change(of):
        return lambda epoch: of.hidden[0].weight.requires_grad_(then if epoch.number == 2 else first)

    fitted(model, rows, epochs=4, averaging=0.99, on_epoch=change(model))
    one_by_one(monkeypatch)
    fitted(other, rows, epochs=4, averaging=0.99, on_epoch=change(other))
    for here, there in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)


def test_hooks_of_parameters_are_called():
    model, rows = made("bits")
    called = []
    model.parameters_layer.weight.register_hook(lambda grad: called.append(grad.shape))
    fitted(model, rows, epochs=1)
    assert len(called) == 3


def test_a_layer_that_is_watched_in_the_middle_of_an_epoch_is_called(monkeypatch):
    """Then steps go on parameter by parameter, with the moments that there are."""
    model, rows = made("bits")
    other, calls = copy.deepcopy(model), []

    def watched(self, rows, seen=None, plain=steps._FlatSteps.gradients):
        if len(calls) == 0 and self.model is model and counted.append(1) is None and len(counted) == 2:
            self.model.hidden[0].register_forward_hook(lambda *_: calls.append(1))
        return plain(self, rows, seen)

    counted: list[int] = []
    monkeypatch.setattr(steps._FlatSteps, "gradients", watched)
    found = fitted(model, rows)
    assert len(calls) >= 8
    expected = fitted(other, rows)
    assert found.epochs[-1].train_nll == pytest.approx(expected.epochs[-1].train_nll, rel=1e-5)


def test_parameters_that_share_memory_stay_shared():
    model, rows = made("residual")
    model.hidden[2].weight.data = model.hidden[1].weight.data
    fitted(model, rows, epochs=1)
    assert model.hidden[2].weight.data_ptr() == model.hidden[1].weight.data_ptr()


@pytest.mark.parametrize("change", [lambda m: m.double(), lambda m: setattr(m, "parameters_layer", m.hidden[1])])
def test_other_parameters_in_the_middle_of_a_run_are_refused(change) -> None:
    model, rows = made("bits")
    with pytest.raises(ValueError, match="model must have the same parameters in every epoch"):
        fitted(model, rows, on_epoch=lambda _: change(model))


def test_gradients_must_be_enabled() -> None:
    model, rows = made("bits")
    with torch.no_grad(), pytest.raises(ValueError, match="fit must be called with gradients enabled"):
        fitted(model, rows)
