"""The recipe, moved images, and what ``fit`` has for it: a cosine, and inputs that are hidden in one native call."""

import copy
import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from made_fast import MADE, training
from made_fast.models import Mixture
from made_fast.outputs import Categorical, Mixed
from made_fast.training import Recipe, Shifted, recipe, steps

D = 12
BITS = (torch.rand(140, D, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)


def mixture_of(chosen: Recipe) -> Mixture:
    torch.manual_seed(0)
    return Mixture([MADE(**chosen.member(number)) for number in range(chosen.members)])


@pytest.mark.parametrize("image_shape", [None, (3, 4)])
def test_the_recipe_fits_and_gives_the_same_again(image_shape: tuple[int, int] | None, tmp_path: Path) -> None:
    chosen = dataclasses.replace(recipe(100, D, members=2, image_shape=image_shape), epochs=4, hidden_features=(8,))
    rows = (BITS[:100], BITS[100:])

    def fitted(**options: object) -> tuple[list[float], Tensor]:
        model = mixture_of(chosen)
        history = training.fit(model, chosen.rows(rows[0]), rows[1], **{**chosen.training(), **options})
        return [epoch.valid_nll for epoch in history.epochs], model.eval().log_prob(rows[1].float())

    whole, log_prob = fitted()
    assert len(whole) == 4 and whole[-1] < whole[0]
    path = tmp_path / "run.ckpt"
    stopped, _ = fitted(checkpoint=path, on_epoch=lambda epoch: epoch.number == 2)
    again, resumed = fitted(checkpoint=path, resume=True)
    assert stopped == whole[:2] and again == whole and torch.equal(log_prob, resumed)


def test_sizes_follow_rows_and_variables() -> None:
    small, large = recipe(2000, 112), recipe(50_000, 784, members=3)
    assert small.epochs > large.epochs and small.hidden_features < large.hidden_features and large.members == 3
    for chosen in (recipe(1, 1), small, large):
        steps_of_all = chosen.epochs * math.ceil(chosen.features / chosen.batch_size)
        assert steps_of_all > 0 and chosen.training()["epochs"] == chosen.epochs
        assert chosen.rows(BITS) is BITS
    orders = {MADE(**small.member(number)).order.sum().item() for number in range(3)}
    assert orders == {112 * 111 // 2}
    first, second = (MADE(**small.member(1, seed)).order for seed in (0, 1))
    assert not torch.equal(first, second)
    assert small.member(4)["order"] == "natural" and small.member(6)["order"] == "reversed"


def test_images_are_gone_through_line_by_line() -> None:
    chosen = recipe(10, 6, image_shape=(2, 3))
    orders = [chosen.member(number)["order"] for number in range(8)]
    assert orders[0] == [0, 1, 2, 3, 4, 5] and orders[1] == [0, 3, 1, 4, 2, 5] and orders[6] == [5, 4, 3, 2, 1, 0]
    assert len({tuple(each) for each in orders}) == 8 and chosen.member(8)["order"] == orders[0]
    for order in orders:  # of two pixels one after another most are neighbours
        places = [(pixel // 3, pixel % 3) for pixel in order]
        near = [abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(places)]
        assert sum(near) >= 3


def test_what_a_recipe_refuses() -> None:
    for arguments, message in (
        ({"rows": 0}, "rows"),
        ({"features": 0}, "features"),
        ({"members": 0}, "members"),
        ({"image_shape": (3, 3)}, r"image_shape must be \(height, width\) of 12 pixels"),
        ({"image_shape": (12,)}, "image_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(**{"rows": 10, "features": D, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_shape must be given"):
        Recipe(4, order="scans").member(0)


def test_images_are_moved_and_come_back() -> None:
    image = torch.zeros(5, 7)
    image[0, 3] = 1
    batches = Shifted(image.reshape(1, -1).repeat(400, 1), (5, 7), shift=1, batch_size=150, until=1)
    assert len(batches) == 3 == len(list(batches))
    torch.manual_seed(0)
    moved = torch.cat(list(batches))
    expected = {torch.roll(image, (dy, dx), (0, 1)).argmax().item() for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert (moved.sum(1) == 1).all() and set(moved.argmax(1).tolist()) == expected and len(expected) == 9
    counts = moved.argmax(1).bincount()
    assert counts[counts > 0].min() > 20  # of 44 that are expected; less once in a hundred thousand times
    torch.manual_seed(0)
    assert torch.equal(moved, torch.cat(list(batches)))
    batches.set_epoch(2)
    assert (torch.cat(list(batches)).argmax(1) == 3).all()


def test_each_image_is_seen_once_an_epoch_in_its_own_dtype() -> None:
    rows = torch.eye(12, dtype=torch.uint8)
    batches = Shifted(rows, (3, 4), batch_size=5, until=0)
    seen = torch.cat(list(batches))
    assert seen.dtype == torch.uint8 and sorted(seen.argmax(1).tolist()) == list(range(12))
    for arguments, message in (
        ((rows[0], (3, 4)), "rows must have shape"),
        ((rows, (3, 5)), "image_shape must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Shifted(*arguments)
    for options, message in (({"shift": 0}, "shift"), ({"batch_size": 0}, "batch_size"), ({"until": -1}, "until")):
        with pytest.raises(ValueError, match=message):
            Shifted(rows, (3, 4), **options)


def test_a_cosine_goes_from_the_learning_rate_towards_nothing(tmp_path: Path) -> None:
    options = {"epochs": 5, "learning_rate": 0.01, "schedule": "cosine", "patience": 99}
    torch.manual_seed(0)
    model = MADE(D, (8,))
    first = copy.deepcopy(model)
    history = training.fit(model, BITS[:100], BITS[100:], **options)  # type: ignore[arg-type]
    expected = [0.01 * (1 + math.cos(math.pi * done / 5)) / 2 for done in range(5)]
    assert [epoch.learning_rate for epoch in history.epochs] == pytest.approx(expected)
    own, path = copy.deepcopy(first), tmp_path / "own.ckpt"
    del options["learning_rate"]
    fit = {**options, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.5), "checkpoint": path}
    training.fit(own, BITS[:100], BITS[100:], **fit, on_epoch=lambda epoch: epoch.number == 2)  # type: ignore[arg-type]
    history = training.fit(own, BITS[:100], BITS[100:], **fit, resume=True)  # type: ignore[arg-type]
    assert [epoch.learning_rate for epoch in history.epochs] == pytest.approx([50 * each for each in expected])
    with pytest.raises(ValueError, match=r"^epochs of schedule='cosine' must be 5"):
        training.fit(own, BITS[:100], BITS[100:], **{**fit, "epochs": 6}, resume=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schedule must be one of plateau, cosine"):
        training.fit(own, BITS, BITS, schedule="linear")


@pytest.mark.parametrize("kind", ["bits", "spin", "categories", "mixed", "ensemble", "context", "mixture"])
def test_hidden_inputs_in_one_call_are_those_of_autograd(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mixed = Mixed([("bernoulli", 8), (Categorical(3), 2), ("normal", 2)])
    makes = {
        "bits": lambda: MADE(D, (16,), direct=True),
        "spin": lambda: MADE(D, (16,), output="spin"),
        "categories": lambda: MADE(D, (16,), output=Categorical(2)),
        "mixed": lambda: MADE(D, (16,), output=mixed),
        "ensemble": lambda: MADE(D, (16,), num_masks=2),
        "context": lambda: MADE(D, (16,), context_features=2),
        "mixture": lambda: Mixture([MADE(D, (16,), order="random", seed=k) for k in range(2)]),
    }
    model = makes[kind]().double()
    rows = 2.0 * BITS - 1 if kind == "spin" else BITS
    context = torch.randn(100, 2).double() if kind == "context" else None
    options = {"epochs": 3, "input_dropout": 0.2, "batch_size": 30, "context": context}
    options["valid_context"] = None if context is None else context[:40]
    calls, found = [], steps._FlatSteps.gradients

    def counted(self: steps._FlatSteps, *arguments: object) -> tuple[float, float]:
        result = found(self, *arguments)  # type: ignore[arg-type]
        calls.append(self._is_flat)
        return result

    monkeypatch.setattr(steps._FlatSteps, "gradients", counted)
    flat = training.fit(copy.deepcopy(model), rows[:100], rows[100:], **options)  # type: ignore[arg-type]
    assert calls and all(calls)
    monkeypatch.setattr(steps, "_can_be_flat", lambda parameters: False)
    slow = training.fit(model, rows[:100], rows[100:], **options)  # type: ignore[arg-type]
    assert [e.train_nll for e in flat.epochs] == pytest.approx([e.train_nll for e in slow.epochs], rel=1e-9)
    assert [e.valid_nll for e in flat.epochs] == pytest.approx([e.valid_nll for e in slow.epochs], rel=1e-9)


def test_inputs_of_what_has_no_distribution_cannot_be_hidden() -> None:
    from made_fast.flows import MaskedAutoregressiveFlow

    rows = torch.randn(20, 3)
    with pytest.raises(ValueError, match=r"input_dropout must be 0 for a model without distribution, got 0\.1"):
        training.fit(MaskedAutoregressiveFlow(3, 1, (4,)), rows, rows, input_dropout=0.1)
