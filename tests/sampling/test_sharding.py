"""Rows split over processes: who draws what, and that the shards joined are what one process draws."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_fast import MADE, cli, sample_rows
from made_fast.sampling import sharding


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


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, model) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model.save(path)
    return path


def draw(capsys, *words: object) -> str:
    status = cli.main(["sample", *map(str, words)])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def joined(folder: Path, suffix: str, world_size: int) -> np.ndarray:
    """The shards in the order of their names, as docs/distributed.md joins them."""
    files = sorted(folder.glob(f"x-*-of-{world_size:05d}.{suffix}"))
    assert len(files) == world_size
    return np.concatenate([read(file) for file in files])


def read(file: Path) -> np.ndarray:
    loaded = np.load(file)
    if isinstance(loaded, np.ndarray):
        return loaded
    assert loaded["n_features"] == 19
    return loaded["samples"]  # packed row by row


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torchrun")
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_torchrun_shares_the_rows_out(tmp_path, capsys, model_file, suffix):
    words = ("sample", str(model_file), "-n", "101", "--seed", "3", "--first-row", "7", "--out")
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "made_fast",
    )
    done = subprocess.run(
        [*launcher, *words, str(tmp_path / f"x.{suffix}")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"50 samples of 19 variables (rank 1 of 2, rows 58:108): {tmp_path}/x-00001-of-00002.{suffix}",
        f"51 samples of 19 variables (rank 0 of 2, rows 7:58): {tmp_path}/x-00000-of-00002.{suffix}",
    ]
    assert len(list(tmp_path.iterdir())) == 2
    draw(capsys, *words[1:], tmp_path / f"whole.{suffix}")
    np.testing.assert_array_equal(joined(tmp_path, suffix, 2), read(tmp_path / f"whole.{suffix}"), strict=True)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(("world_size", "num_rows"), [(1, 10), (3, 100), (4, 100), (7, 5), (3, 0)])
def test_any_number_of_processes_draws_what_one_draws(tmp_path, capsys, model_file, suffix, world_size, num_rows):
    words = (model_file, "-n", num_rows, "--first-row", 2**33, "--out")
    for rank in reversed(range(world_size)):  # none waits for another
        draw(capsys, *words, tmp_path / f"x.{suffix}", "--rank", rank, "--world-size", world_size)
    draw(capsys, *words, tmp_path / f"whole.{suffix}")
    whole = read(tmp_path / f"whole.{suffix}")
    assert len(whole) == num_rows
    np.testing.assert_array_equal(joined(tmp_path, suffix, world_size), whole, strict=True)


def test_options_win_over_the_environment(tmp_path, capsys, monkeypatch, model_file):
    for environment in (("0", "2"), ("what", "ever"), ("5", None)):
        for name, value in zip(("RANK", "WORLD_SIZE"), environment, strict=True):
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        out = draw(capsys, model_file, "--out", tmp_path / "x.npy", "--rank", 2, "--world-size", 3)
        assert out == f"33 samples of 19 variables (rank 2 of 3, rows 67:100): {tmp_path}/x-00002-of-00003.npy\n"


@pytest.mark.parametrize(
    ("environment", "words", "status", "message"),
    [
        ({}, "--out x.npy --rank 0", 2, "--rank and --world-size must be given together"),
        ({}, "--out x.npy --world-size 3", 2, "--rank and --world-size must be given together"),
        ({"RANK": "0", "WORLD_SIZE": "3"}, "--out x.npy --rank 0", 2, "--rank and --world-size must be given together"),
        ({}, "--out x.npy --rank -1 --world-size 3", 2, "--rank: must be a whole number of 0 or more, got '-1'"),
        ({}, "--out x.npy --rank 0 --world-size 0", 2, "--world-size: must be a whole number of 1 or more, got '0'"),
        ({}, "--out x.npy --rank 3 --world-size 3", 1, "rank must be an integer, 0 to 2 with world_size 3, got 3"),
        ({}, "--out x.png --rank 1 --world-size 3", 1, r"\.npy or \.npz for a shard \(rank 1 of 3\), got x\.png"),
        ({}, "--out gone/x.npy --rank 1 --world-size 3", 1, "the folder gone does not exist"),
        (
            {"RANK": "3", "WORLD_SIZE": "3"},
            "--out x.npy",
            1,
            "rank must be an integer, 0 to 2 with world_size 3, got 3",
        ),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "--out x.npy", 1, "world_size must be an integer, 1 or more, got 0"),
        (
            {"RANK": "0"},
            "--out x.npy",
            1,
            "must set RANK and WORLD_SIZE, both to whole numbers, or neither, got RANK=0;",
        ),
        ({"WORLD_SIZE": "3"}, "--out x.npy", 1, "or neither, got WORLD_SIZE=3;"),
        ({"RANK": "-1", "WORLD_SIZE": "3"}, "--out x.npy", 1, "whole numbers, or neither, got RANK=-1, WORLD_SIZE=3;"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "--out x.npy", 1, "whole numbers, or neither, got RANK=0, WORLD_SIZE=;"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path, capsys, monkeypatch, model_file, environment, words, status, message
):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        found = cli.main(["sample", str(model_file), *words.split()])
    except SystemExit as stop:
        found = stop.code
    out, err = capsys.readouterr()
    assert (found, out) == (status, "")
    assert re.fullmatch(r"made-fast: error: [^\n]+\n", err), err
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []
