"""Orders, degrees and masks: the one rule, and what it must reach."""

from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import masks

PERMUTATION = [3, 0, 4, 1, 2]


@pytest.mark.parametrize(
    ("order", "features", "expected"),
    [
        ("natural", 5, [0, 1, 2, 3, 4]),
        ("reversed", 5, [4, 3, 2, 1, 0]),
        ("raster", 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("columns", 9, [0, 3, 6, 1, 4, 7, 2, 5, 8]),
        (PERMUTATION, 5, PERMUTATION),
        (tuple(PERMUTATION), 5, PERMUTATION),
        (torch.tensor(PERMUTATION), 5, PERMUTATION),
        (torch.tensor(PERMUTATION, dtype=torch.int32), 5, PERMUTATION),
        ("natural", 1, [0]),
        ("random", 1, [0]),
        ([0], 1, [0]),
    ],
)
def test_named_and_explicit_orders(order: Any, features: int, expected: list[int]) -> None:
    found = masks.make_order(order, features)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_images_need_not_be_square() -> None:
    assert masks.make_order("columns", 6, image_shape=(2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert masks.make_order("raster", 6, image_shape=(2, 3)).tolist() == [0, 1, 2, 3, 4, 5]


def test_random_order_comes_from_the_seed_alone() -> None:
    first = masks.make_order("random", 50, seed=1)
    torch.manual_seed(99)
    assert torch.equal(first, masks.make_order("random", 50, seed=1))
    assert not torch.equal(first, masks.make_order("random", 50, seed=2))
    assert first.sort().values.tolist() == list(range(50))


def test_an_explicit_order_is_copied() -> None:
    mine = torch.tensor(PERMUTATION)
    kept = masks.make_order(mine, 5)
    mine[0] = 0
    assert kept.tolist() == PERMUTATION


@pytest.mark.parametrize(
    ("order", "features"),
    [
        ([0, 1, 1], 3),
        ([1, 2, 3], 3),
        ([0, 1], 3),
        ([0, 1, 2, 3], 3),
        ([-1, 0, 1], 3),
        ([0.0, 1.0, 2.0], 3),
        ([[0, 1, 2]], 3),
        ([], 3),
        ([True, False], 2),
        (torch.zeros(100, dtype=torch.int64), 100),
        ("zigzag", 3),
        ("", 3),
        ("columns", 8),
        ("raster", 8),
    ],
)
def test_what_is_no_order_is_refused(order: Any, features: int) -> None:
    with pytest.raises(ValueError, match=r"^(order|image_shape) must .*, got .*\Z") as error:
        masks.make_order(order, features)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("features", [0, -3])
def test_features_must_be_positive(features: int) -> None:
    with pytest.raises(ValueError, match=rf"^features must .*1.*, got {features}\Z"):
        masks.make_order("natural", features)


def test_rank_is_the_inverse_and_degrees_follow_it() -> None:
    order = masks.make_order("random", 12, seed=4)
    rank = masks.rank_of(order)
    assert torch.equal(order[rank], torch.arange(12))
    assert torch.equal(rank[order], torch.arange(12))
    assert torch.equal(masks.input_degrees(order), rank + 1)
    assert torch.equal(masks.output_degrees(order, [1] * 12), rank)


def test_parameters_are_variable_major() -> None:
    order = masks.make_order([2, 0, 1], 3)  # ranks 1, 2, 0
    assert masks.output_degrees(order, [2, 1, 3]).tolist() == [1, 1, 2, 0, 0, 0]


def test_one_rule_makes_every_mask() -> None:
    rows, columns = torch.tensor([0, 2, 1]), torch.tensor([1, 0, 2, 3])
    found = masks.connectivity(rows, columns)
    assert found.dtype == torch.bool
    assert found.tolist() == [[r >= c for c in columns.tolist()] for r in rows.tolist()]


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("features", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("width", [1, 2, 3, 9, 10, 29, 64, 1000])
def test_even_degrees_are_sorted_and_spread(width: int, features: int, context: bool) -> None:
    degrees = masks.hidden_degrees(width, features, context=context)
    low = 0 if context or features == 1 else 1
    assert degrees.shape == (width,)
    assert torch.equal(degrees, degrees.sort().values)
    assert degrees.min() >= low
    assert degrees.max() <= max(features - 1, low)
    counts = torch.bincount(degrees, minlength=features)[low:]
    if width >= len(counts):  # as many units of each degree, give or take one
        assert counts.max() - counts.min() <= 1
    elif width > 1:  # no degree twice; evenly spaced, with both ends
        steps = degrees.diff()
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1
        assert degrees[0] == low
        assert degrees[-1] == features - 1


def _reached(widths: list[int], features: int, kind: str, seed: int) -> Tensor:
    """Which variable reaches which parameter through the masks of these layers: (P, D)."""
    order = torch.arange(features)
    below, found = masks.input_degrees(order), torch.eye(features)
    for index, width in enumerate(widths):
        own = masks.hidden_degrees(width, features, kind=kind, minimum=int(below.min()), seed=seed + index)
        found, below = masks.connectivity(own, below).float() @ found, own
    return (masks.connectivity(masks.output_degrees(order, [1] * features), below).float() @ found) > 0


@pytest.mark.parametrize("widths", [[2], [3], [5, 2], [4, 7, 3], [30]])
def test_few_units_still_reach_every_variable(widths: list[int]) -> None:
    """H < D - 1: all but the first variable depend on another, all but the last are seen, the last sees all."""
    features = 30
    reached = _reached(widths, features, "even", 0)
    assert not reached.triu().any()
    assert reached[1:].any(1).all()
    assert reached[-1, :-1].all()
    assert reached[:, :-1].any(0).all()


def test_enough_units_lose_no_connection() -> None:
    reached = _reached([11, 14], 12, "even", 0)
    assert torch.equal(reached, torch.ones(12, 12).tril(-1).bool())


@pytest.mark.parametrize("seed", range(5))
def test_random_degrees(seed: int) -> None:
    degrees = masks.hidden_degrees(400, 11, kind="random", seed=seed)
    assert torch.equal(degrees, degrees.sort().values)
    assert torch.equal(degrees, masks.hidden_degrees(400, 11, kind="random", seed=seed))
    assert not torch.equal(degrees, masks.hidden_degrees(400, 11, kind="random", seed=seed + 100))
    counts = torch.bincount(degrees, minlength=11)
    assert counts[0] == 0
    assert (counts[1:] > 0).all()  # 400 units, ten degrees: one is left out once in 10**17 draws
    assert not _reached([6, 6], 11, "random", seed).triu().any()
    above = masks.hidden_degrees(50, 11, kind="random", seed=seed, minimum=4)
    assert above.min() >= 4  # a unit below every degree of the layer under it would have no input


@pytest.mark.parametrize(
    ("width", "kind", "named"), [(0, "even", "width"), (-2, "even", "width"), (3, "odd", "degrees")]
)
def test_bad_degrees_are_named(width: int, kind: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} must .*, got .*\Z"):
        masks.hidden_degrees(width, 5, kind=kind)
