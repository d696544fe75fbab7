"""Ensembles of masks: which mask is which, the laws under each of them and for their mean, and which one is current."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import Tensor

from made_fast import MADE, MaskedLinear, masks
from made_fast.masks.mask_set import EVALUATION_MASKS

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
SHUFFLES = ("order", "connectivity", "both")
OPTIONS: dict[str, dict[str, Any]] = {
    "deep": {"hidden_features": (14, 11), "order": "random"},
    "everything": {"hidden_features": (12, 12, 12), "residual": True, "direct": True, "context_features": 2},
    "belief_network": {"hidden_features": (), "direct": True},
    "biases": {"hidden_features": (), "context_features": 2},
    "random_degrees": {"hidden_features": (16, 16), "degrees": "random", "context_features": 2},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def choice(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of one architecture."""
    return request.param


def _same_layers(left: MADE, k: int, right: MADE, j: int) -> bool:
    pairs = zip(left._layer_masks(k), right._layer_masks(j), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and torch.equal(left.order_of(k), right.order_of(j))


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_mask_is_a_function_of_seed_and_index(choice: dict[str, Any], shuffle: str) -> None:
    torch.manual_seed(1)
    one, few, more = (MADE(9, **choice, num_masks=n, shuffle=shuffle, seed=5) for n in (1, 3, 20))
    torch.manual_seed(2)  # weights come from torch's generator, masks do not
    endless, other = (MADE(9, **choice, num_masks=0, shuffle=shuffle, seed=seed) for seed in (5, 6))
    for layer, degrees in zip(one.masked_layers, few._layer_masks(0), strict=True):
        assert torch.equal(layer.mask, masks.connectivity(*degrees.split(layer.weight.shape)))
    for k in (2, 0, 1):
        assert _same_layers(few, k, more, k)
    for k in (17, 0, 19, 3):
        assert _same_layers(more, k, endless, k)
        assert k == 0 or _same_layers(endless, k, other, k) == _same_layers(endless, k, endless, 0)
    shuffled = shuffle != "connectivity" or choice["hidden_features"]
    assert _same_layers(endless, 10**9, endless, 0) != bool(shuffled)


def test_masks_are_the_same_on_every_machine() -> None:
    """Written down once: a model file trained with masks without end does not hold them."""
    model = MADE(7, (5,), num_masks=0, seed=3)
    assert model.order_of(1).tolist() == [1, 4, 3, 2, 5, 0, 6]
    assert model.ensemble.of_layers(1)[0].tolist()[:5] == [2, 5, 1, 2, 4]
    assert model.order_of(2**40).tolist() == [3, 5, 2, 6, 1, 4, 0]


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_what_is_shuffled(context: int, residual: bool) -> None:
    options = {"hidden_features": (200, 200), "context_features": context, "residual": residual, "order": "reversed"}
    found = {shuffle: MADE(9, **options, num_masks=50, shuffle=shuffle).ensemble for shuffle in SHUFFLES}
    assert len(found["order"].orders.unique(dim=0)) == len(found["both"].orders.unique(dim=0)) == 50
    assert len(found["connectivity"].orders.unique(dim=0)) == 1
    # every variable is as often first as any other
    assert found["order"].orders[:, 0].bincount(minlength=9).max() < 17
    for name, masks_of in found.items():
        masks_of.check()
        below = torch.ones(50, 1)
        for degrees in masks_of.degrees:
            assert (len(degrees.unique(dim=0)) == 50) == (name != "order")
            assert degrees.max() == 8
            assert degrees.min() == (0 if context else 1)
            if name != "order":
                assert (degrees.amin(1) >= (0 if context else below.amin(1))).all()
                counts = degrees[1:].flatten().bincount(minlength=9)
                assert (counts[1:] - 49 * 200 / 8).abs().max() < 250  # 35 is one standard deviation
                assert not context or (degrees[:, 0] == 0)[1:].all()
            below = degrees
        assert len(masks_of.degrees) == (1 if residual else 2)


def test_an_ensemble_holds_no_matrices() -> None:
    model = MADE(40, (60, 50), num_masks=32, direct=True)
    assert all(layer.mask is None for layer in model.masked_layers)
    assert {tuple(buffer.shape) for buffer in model.ensemble.buffers()} == {
        *((32, 40), (32, 60), (32, 50)),  # orders and degrees
        *((100,), (110,), (90,), (80,)),  # of the current mask, by layer
    }


def test_a_mean_of_logits_would_be_no_density(build: Build, all_states: Any) -> None:
    """What the mean of law 2 guards against: masks of different orders, whose mean logits depend on each other in rings."""
    model, x = build({"hidden_features": (), "direct": True, "num_masks": 3}, features=6).eval(), all_states(6)
    logits = torch.stack([model(x, mask=k) for k in range(3)]).mean(0)
    total = F.logsigmoid((2 * x - 1) * logits).sum(1).logsumexp(0)
    assert abs(total.item()) > 0.01


def test_which_masks_log_prob_takes(build: Build, all_states: Any) -> None:
    model, x = build({"hidden_features": (14,), "num_masks": 5}), all_states(9)[::37]
    alone = [model.log_prob(x, masks=k) for k in range(5)]
    assert len({tuple(each.tolist()) for each in alone}) == 5
    for k in range(5):
        assert model.mask_index == k
        assert torch.equal(model.log_prob(x), alone[k])  # in training mode
        assert torch.equal(model(x), model(x, mask=k))
        torch.testing.assert_close(model.distribution(x).log_prob(x), alone[k])
        torch.testing.assert_close(model.distribution(x, mask=1).log_prob(x), alone[1])
        model.next_mask()
    pair = torch.stack([alone[3], alone[1]]).logsumexp(0) - math.log(2)
    for chosen in ([3, 1], (3, 1), range(3, 0, -2), [3, 3, 1, 1]):
        torch.testing.assert_close(model.log_prob(x, masks=chosen), pair)
    assert torch.equal(model.eval().log_prob(x), model.log_prob(x, masks=range(5)))
    assert torch.equal(model(x), model(x, mask=0))  # one forward is one mask in any mode
    torch.testing.assert_close(model.log_prob(x[0]), model.log_prob(x)[0])
    endless = build({"hidden_features": (14,), "num_masks": 0}).eval()
    assert torch.equal(endless.log_prob(x), endless.log_prob(x, masks=range(EVALUATION_MASKS)))


def test_masks_follow_one_another() -> None:
    model = MADE(6, (8,), num_masks=3)
    found = []
    for _ in range(7):
        found.append(model.mask_index)
        model.next_mask()
    assert found == [0, 1, 2, 0, 1, 2, 0]
    model.mask_index = 2
    model.next_mask()
    assert model.mask_index == 0
    endless, one = MADE(6, (8,), num_masks=0), MADE(6, (8,))
    for k in range(40):
        assert endless.mask_index == k
        assert _same_layers(endless, endless.mask_index, endless, k)
        endless.next_mask()
        one.next_mask()
    assert one.mask_index == 0
    one.mask_index = 0


def test_weights_belong_to_variables_and_not_to_positions(build: Build, all_states: Any) -> None:
    """Renaming the variables, in the weights and in the orders, renames the variables of the density and no more."""
    options = {"hidden_features": (14, 9), "direct": True, "num_masks": 4, "mask_conditioning": True}
    model, x = build(options), all_states(9)[::5]
    new = torch.tensor([3, 0, 8, 1, 7, 2, 5, 6, 4])  # variable d is called new[d]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if name in ("hidden.0.weight", "hidden.0.mask_weight", "direct_layer.weight"):
            state[name][:, new] = tensor
    for name, tensor in state.items():
        if name.startswith(("parameters_layer.", "direct_layer.")):
            tensor[new] = tensor.clone()
    state["order"], state["ensemble.orders"] = new[state["order"]], new[state["ensemble.orders"]]
    renamed = MADE(9, **options).double()
    renamed.load_state_dict(state)
    y = torch.empty_like(x)
    y[:, new] = x
    for k in (0, 1, 2, 3, range(4)):
        torch.testing.assert_close(renamed.log_prob(y, masks=k), model.log_prob(x, masks=k))
    assert not torch.allclose(renamed.log_prob(x), model.log_prob(x))


def test_masked_linear_takes_a_mask_for_each_call() -> None:
    layer = MaskedLinear(3, 2, conditioning=True).double()
    assert set(layer.state_dict()) == {"weight", "bias", "mask_weight"}
    assert not layer.mask_weight.any()
    x, mask = torch.randn(4, 3, dtype=torch.float64), torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    degrees = torch.tensor([2, 0, 0, 3, 2])  # of two rows, then of three columns
    under = masks.connectivity(degrees[:2], degrees[2:])
    assert torch.equal(layer(x, mask), F.linear(x, layer.weight * mask, layer.bias))
    torch.nn.init.normal_(layer.mask_weight)
    for given, whole in ((mask, mask), (degrees, under)):
        bias = layer.bias + (layer.mask_weight * whole).sum(1)
        torch.testing.assert_close(layer(x, given), F.linear(x, layer.weight * whole, bias))
        term = layer.term(0, given)
        assert torch.equal(term.mask, whole)
        assert torch.equal(term.weight, layer.weight * whole)
        torch.testing.assert_close(layer.bias_under(given), bias)
    layer(x, degrees, activation="tanh").sum().backward()
    for weight in (layer.weight, layer.mask_weight):
        assert torch.equal(weight.grad != 0, under)
    for call in (layer, lambda x: layer.bias_under(), lambda x: layer.term(0)):
        with pytest.raises(ValueError, match=r"^mask must be given .*, got None\Z"):
            call(x)
    own = MaskedLinear(3, 2, mask, bias=False, conditioning=True)
    torch.nn.init.ones_(own.mask_weight)
    assert own.bias_under().tolist() == [2, 2]


def test_mask_conditioning_starts_as_nothing_and_learns_to_tell_masks_apart(all_states: Any) -> None:
    torch.manual_seed(0)
    plain = MADE(9, (12,), num_masks=2, direct=True, context_features=2)
    torch.manual_seed(0)
    model = MADE(9, (12,), num_masks=2, direct=True, context_features=2, mask_conditioning=True)
    x, context = all_states(9, torch.float32)[::31], torch.zeros(2)
    assert torch.equal(model.log_prob(x, context), plain.log_prob(x, context))
    new = model.state_dict().keys() - plain.state_dict().keys()
    assert new == {"hidden.0.mask_weight", "parameters_layer.mask_weight"}
    model.log_prob(x, context, masks=range(2)).sum().backward()
    assert model.hidden[0].mask_weight.grad.any()
    assert model.parameters_layer.mask_weight.grad.any()


@pytest.mark.slow
def test_the_current_mask_is_not_compiled_in(all_states: Any) -> None:
    x = all_states(9, torch.float32)[::41]
    for num_masks, call in itertools.product((4, 0), ("forward", "log_prob")):
        model = MADE(9, (12, 12), num_masks=num_masks, direct=True, mask_conditioning=True)
        counter = torch._dynamo.testing.CompileCounter()
        compiled = torch.compile(getattr(model, call), backend=counter, fullgraph=True)
        for _ in range(6):
            torch.testing.assert_close(compiled(x), getattr(model, call)(x))
            model.next_mask()
        assert counter.frame_count == 1
        torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_backward_pass_keeps_the_mask_of_its_forward(compiled: bool) -> None:
    model, x = MADE(20, (30, 30), num_masks=3, mask_conditioning=True), (torch.rand(5, 20) < 0.5).float()
    call = torch.compile(model, backend="aot_eager") if compiled else model
    found = []
    for early in (False, True):
        model.mask_index = 1
        loss = call(x).square().sum()
        if early:
            model.next_mask()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(late, early) for late, early in zip(*found, strict=True))
    torch._dynamo.reset()


def test_masks_made_in_inference_mode_serve_in_training(all_states: Any) -> None:
    model, x = MADE(9, (12,), num_masks=3), all_states(9, torch.float32)
    with torch.inference_mode():
        expected = [model.log_prob(x, masks=k) for k in range(3)]
        model.next_mask()
    for k in range(3):
        assert not any(degrees.is_inference() for degrees in model._layer_masks(k))
        assert torch.equal(model.log_prob(x, masks=k), expected[k])
    model.log_prob(x).sum().backward()
    with torch.inference_mode():
        model = MADE(9, (12,), num_masks=3)
    model.next_mask()
    with torch.no_grad():  # torch lets no layer with such weights into autograd
        assert torch.equal(model.log_prob(x), model.log_prob(x, masks=1))


def test_masks_changed_in_place_are_noticed(build: Build, all_states: Any) -> None:
    model, x = build({"hidden_features": (14,), "num_masks": 2}), all_states(9)
    before = model.log_prob(x)
    model.ensemble.orders[0] = model.ensemble.orders[0].flip(0)
    assert not torch.equal(model.log_prob(x), before)
    assert abs(model.log_prob(x).logsumexp(0).item()) < 1e-13
    kept = model._layer_masks(None)
    model.ensemble.orders.copy_(model.ensemble.orders.clone())  # the same numbers again
    assert model._layer_masks(None)[0] is kept[0]
    model.ensemble.orders[0, 0] = 5
    with pytest.raises(ValueError, match=r"^ensemble.orders must be permutations"):
        model.check()
