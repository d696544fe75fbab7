"""Rows split over processes: who draws what, and that the shards joined are what one process draws."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_fast import MADE, sample_rows, sharding


@given(world_size=st.integers(1, 40), n=st.integers(0, 10**12))
def test_the_ranges_cover_all_rows_in_order_and_differ_by_one_at_most(world_size, n):
    ranges = [sample_rows(rank, world_size, n) for rank in range(world_size)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == n
    assert all(before.stop == after.start for before, after in itertools.pairwise(ranges))
    sizes = [len(rows) for rows in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert {rows.step for rows in ranges} == {1}


@given(world_size=st.integers(1, 40), n=st.integers(0, 300))
def test_the_ranges_are_those_of_numpy(world_size, n):
    parts = np.array_split(np.arange(n), world_size)
    assert [list(sample_rows(rank, world_size, n)) for rank in range(world_size)] == [list(part) for part in parts]


@pytest.fixture(scope="module")
def model() -> MADE:
    torch.manual_seed(0)
    return MADE(19, (24, 24), direct=True)


@settings(max_examples=25, deadline=None)
@given(world_size=st.integers(1, 9), n=st.integers(0, 200), seed=st.integers(0, 2**63), first_row=st.integers(0, 2**40))
def test_the_parts_joined_are_the_whole_sample(model, world_size, n, seed, first_row):
    sampler = model.sampler()
    ranges = [sample_rows(rank, world_size, n) for rank in range(world_size)]
    parts = [sampler.sample(len(rows), seed=seed, first_row=first_row + rows.start) for rows in ranges]
    assert torch.equal(torch.cat(parts), sampler.sample(n, seed=seed, first_row=first_row))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 5), "world_size must be an integer, 1 or more, got 0"),
        ((0, 2.0, 5), r"world_size must be an integer, 1 or more, got 2\.0"),
        ((0, True, 5), "world_size must be an integer, 1 or more, got True"),
        ((0, "2", 5), "world_size must be an integer, 1 or more, got '2'"),
        ((0, 2, -1), "n must be an integer, 0 or more, got -1"),
        ((0, 2, 5.0), r"n must be an integer, 0 or more, got 5\.0"),
        ((0, 2, False), "n must be an integer, 0 or more, got False"),
        ((2, 2, 5), "rank must be an integer, 0 to 1 with world_size 2, got 2"),
        ((-1, 2, 5), "rank must be an integer, 0 to 1 with world_size 2, got -1"),
        ((None, 2, 5), "rank must be an integer, 0 to 1 with world_size 2, got None"),
        ((True, 2, 5), "rank must be an integer, 0 to 1 with world_size 2, got True"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        sample_rows(*arguments)
    if not message.startswith("n "):
        with pytest.raises(ValueError, match=f"^{message}$"):
            sharding.shard_path(Path("x.npy"), *arguments[:2])


def test_names_of_shards_sort_as_their_rows():
    assert sharding.shard_path(Path("a/x.y.npz"), 1, 4) == Path("a/x.y-00001-of-00004.npz")
    for world_size, ranks in ((1, [0]), (11, [0, 1, 9, 10]), (100_001, [0, 9, 10, 99_999, 100_000])):
        names = [str(sharding.shard_path(Path("x.npy"), rank, world_size)) for rank in ranks]
        assert len(set(names)) == len(ranks)
        assert names == sorted(names)
