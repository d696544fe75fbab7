"""MaskPlan: what it keeps is the mask, staircases are found by sorting, and empty blocks are not gone through."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from made_fast import mask_plan, masks
from made_fast.mask_plan import MaskPlan, MaskSide, find_plan, plan_from_degrees, plan_from_mask


def _read_by(side: MaskSide) -> np.ndarray:
    """The mask that a side describes, read as an engine reads it: by panels, lists and bits."""
    kept = np.zeros((len(side.rows), len(side.columns)), dtype=bool)
    for number, (at, bits_at, size, low, high, *panels, count) in enumerate(side.groups.tolist()):
        assert 0 < count <= mask_plan.GROUP_ROWS
        assert 0 <= low <= high <= size
        for unit in range(count):
            begin, end = panels[:2] if unit < 8 else panels[2:]
            assert begin >= 0 and end <= size
            for j in range(begin, end):
                if not low <= j < high or side.bits[bits_at + j - low] >> unit & 1:
                    kept[side.rows[16 * number + unit], side.columns[side.positions[at + j]]] = True
    return kept


def _check(plan: MaskPlan, mask: np.ndarray) -> None:
    assert plan.shape == mask.shape
    assert plan.kept == mask.sum()
    assert np.array_equal(_read_by(plan.forward), mask)
    assert np.array_equal(_read_by(plan.backward), mask.T)
    assert np.array_equal(plan.mask.numpy(), mask)
    for side in (plan.forward, plan.backward):
        assert sorted(side.rows) == list(range(len(side.rows)))
        assert sorted(side.longest_first) == list(range(len(side.groups)))


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=100, deadline=None)
def test_any_mask_is_kept(mask: np.ndarray) -> None:
    _check(plan_from_mask(mask), mask)


@given(st.lists(st.integers(-3, 30), min_size=1, max_size=60), st.lists(st.integers(-3, 30), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_degrees_make_their_mask(rows: list[int], columns: list[int]) -> None:
    mask = np.asarray(rows)[:, None] >= np.asarray(columns)[None]
    plan = plan_from_degrees(np.asarray(rows), np.asarray(columns))
    assert plan.nested
    _check(plan, mask)
    found = plan_from_mask(mask)
    assert found.nested
    assert found.forward.macs <= plan.forward.macs  # ties may be broken differently, never worse
    _check(found, mask)


def test_a_made_of_any_order_does_half_the_work() -> None:
    for order in ("natural", "random"):
        inputs = masks.input_degrees(masks.make_order(order, 784))
        plan = plan_from_degrees(masks.hidden_degrees(1024, 784).numpy(), inputs.numpy())
        for side in (plan.forward, plan.backward):
            assert side.macs < 0.52 * 1024 * 784


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_masks_without_rows_or_columns(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, dtype=bool)
    plan = plan_from_mask(mask)
    assert plan.kept == 0
    assert plan.mask.shape == shape


def test_sides_of_a_sorted_mask_stay_in_the_order_of_memory() -> None:
    """Then weights are packed by whole vectors."""
    plan = plan_from_mask(masks.connectivity(torch.arange(64), torch.arange(48)).numpy())
    for side in (plan.forward, plan.backward):
        assert np.array_equal(side.rows, np.arange(len(side.rows)))
        assert np.array_equal(side.columns, np.arange(len(side.columns)))
        assert side.contiguous


def test_plans_are_made_once_and_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.rand(30, 20) < 0.5
    assert find_plan(mask, (30, 20)) is find_plan(mask.clone(), (30, 20))
    assert find_plan(mask.T.contiguous().T, (30, 20)) is find_plan(mask, (30, 20))
    monkeypatch.setattr(mask_plan, "_PLANS_KEPT", 5)
    for _ in range(20):
        find_plan(torch.rand(30, 20) < 0.5, (30, 20))
    assert len(mask_plan._plans) <= 5


def test_masks_are_told_apart_by_every_byte() -> None:
    digests = set()
    mask = torch.zeros(33, 31, dtype=torch.bool)
    for place in range(mask.numel()):
        mask.view(-1)[place] = True
        digests.add(mask_plan._digest(mask))
        mask.view(-1)[place] = False
    for width in (1, 7, 64, 65):
        digests.add(mask_plan._digest(torch.zeros(width, dtype=torch.bool)))
    assert len(digests) == mask.numel() + 4
