"""MaskPlan: what it keeps is the mask, staircases are found by sorting, and empty blocks are not gone through."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from made_fast import masks
from made_fast.masks import plan as mask_plan
from made_fast.masks import plan_cache
from made_fast.masks.plan import MaskPlan, MaskSide, plan_from_degrees, plan_from_mask
from made_fast.masks.plan_cache import find_plan


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
    _check_bounds(plan, mask)


def _check_bounds(plan: MaskPlan, mask: np.ndarray) -> None:
    """Of a nested mask: each sorted row reads one run of places, and the runs go up."""
    for side, kept in ((plan.forward, mask), (plan.backward, mask.T)):
        assert (side.bounds is not None) == plan.nested
        if side.bounds is not None:
            starts, ends = side.bounds
            places = np.arange(len(side.columns))
            read = (starts[:, None] <= places) & (places < ends[:, None])
            assert np.array_equal(read, kept[side.rows][:, side.columns])
            assert (np.diff(starts) >= 0).all()
            assert (np.diff(ends) >= 0).all()


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
    monkeypatch.setattr(plan_cache, "_PLANS_KEPT", 5)
    for _ in range(20):
        find_plan(torch.rand(30, 20) < 0.5, (30, 20))
    assert len(plan_cache._plans) <= 5


def test_masks_are_told_apart_by_every_byte() -> None:
    digests = set()
    mask = torch.zeros(33, 31, dtype=torch.bool)
    for place in range(mask.numel()):
        mask.view(-1)[place] = True
        digests.add(plan_cache.mask_digest(mask))
        mask.view(-1)[place] = False
    for width in (1, 7, 64, 65):
        digests.add(plan_cache.mask_digest(torch.zeros(width, dtype=torch.bool)))
    assert len(digests) == mask.numel() + 4


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each mask whose content is read. Masks of the CPU stand for those of a GPU, which are far away."""
    read, digest = [], plan_cache.mask_digest
    monkeypatch.setattr(plan_cache, "mask_digest", lambda mask: read.append(1) or digest(mask))
    return read


def test_a_mask_far_away_is_read_once(digests: list[int]) -> None:
    mask = torch.rand(30, 20) < 0.5
    plan = plan_cache._find_by_identity(mask, (30, 20))
    assert all(plan_cache._find_by_identity(mask, (30, 20)) is plan for _ in range(5))
    assert len(digests) == 1
    assert plan_cache._find_by_identity(mask.clone(), (30, 20)) is plan  # another tensor, the same content
    assert len(digests) == 2
    degrees = torch.arange(50) % 7
    with torch.no_grad():
        assert plan_cache._find_by_identity(degrees, (30, 20)).shape == (30, 20)
    assert plan_cache._find_by_identity(degrees, (20, 30)).shape == (20, 30)
    assert len(digests) == 4


@pytest.mark.parametrize("change", ["index", "copy", "swapped", "grown", "viewed"])
def test_a_mask_far_away_that_changed_is_another(change: str) -> None:
    mask = torch.ones(6, 6, dtype=torch.bool)
    assert plan_cache._find_by_identity(mask, (6, 6)).kept == 36
    if change == "index":
        mask[2, 3] = False
    elif change == "copy":
        mask.copy_(torch.ones(6, 6).tril())
    elif change == "swapped":
        mask.data = torch.ones(6, 6).tril().bool()
    elif change == "grown":
        mask.resize_(7, 6).fill_(False)
    else:
        mask.view(-1)[5] = False  # a view counts for its base
    shape = (7, 6) if change == "grown" else (6, 6)
    plan = plan_cache._find_by_identity(mask, shape)
    assert np.array_equal(plan.mask, mask)
    assert plan.kept < 36


def test_a_mask_that_got_the_name_of_a_freed_one_is_read() -> None:
    """An id, an address and a version come again; the weak reference does not."""
    reused = 0
    for turn in range(50):
        mask = torch.full((5, 4), turn % 2 == 0)
        known = id(mask)
        assert plan_cache._find_by_identity(mask, (5, 4)).kept == 20 * (turn % 2 == 0)
        del mask
        other = torch.full((5, 4), turn % 2 == 1)
        reused += id(other) == known
        assert plan_cache._find_by_identity(other, (5, 4)).kept == 20 * (turn % 2 == 1)
        del other
    assert reused
    assert len(plan_cache._by_identity) == 0


def test_a_mask_without_a_version_is_read_each_time(digests: list[int]) -> None:
    with torch.inference_mode():
        mask = torch.ones(4, 4, dtype=torch.bool)
        assert plan_cache._find_by_identity(mask, (4, 4)).kept == 16
        mask[0] = False
        assert plan_cache._find_by_identity(mask, (4, 4)).kept == 12
    assert len(digests) == 2


def test_masks_are_looked_for_by_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(plan_cache, "_find_by_identity", lambda mask, shape: asked.append(mask.device.type))
    find_plan(torch.ones(2, 2, dtype=torch.bool), (2, 2))
    assert asked == []
    find_plan(torch.ones(2, 2, dtype=torch.bool, device="meta"), (2, 2))
    assert asked == ["meta"]
