"""Reading data sets, writing samples, drawing grids of images."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from made_fast import datasets
from made_fast.datasets import npz

ROWS = {"train": 7, "valid": 3, "test": 2}


def make_parts(features: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(features)
    return {key: random.integers(0, 2, (rows, features), dtype=np.uint8) for key, rows in ROWS.items()}


def write_npz(path: Path, features: int, **replaced: np.ndarray | None) -> Path:
    members = {key: np.packbits(part, axis=1) for key, part in make_parts(features).items()}
    members = {**members, "n_features": np.asarray(features), **replaced}
    np.savez_compressed(path, **{key: value for key, value in members.items() if value is not None})
    return path


@pytest.mark.parametrize("features", [1, 7, 8, 9, 64, 123])
def test_npz_gives_back_what_was_packed(tmp_path, features):
    data = datasets.load(write_npz(tmp_path / "rows.npz", features))
    for key, part in make_parts(features).items():
        assert data.split(key).dtype == torch.uint8
        np.testing.assert_array_equal(data.split(key).numpy(), part)
    assert (data.name, data.features) == ("rows", features)


def test_rows_without_parts_are_split_in_a_fixed_way(tmp_path):
    rows = np.arange(2 * 103).reshape(103, 2)
    np.save(tmp_path / "rows.npy", rows)
    data, parts = datasets.load(tmp_path / "rows.npy"), datasets.split_rows(103, (0.8, 0.1, 0.1), 0)
    for number, key in enumerate(npz.SPLITS):
        np.testing.assert_array_equal(data.split(key).numpy(), rows[parts == number])


def test_digits_are_scikit_learns_thresholded_at_8():
    sklearn = pytest.importorskip("sklearn.datasets")
    data = datasets.load("digits")
    assert [tuple(data.split(key).shape) for key in npz.SPLITS] == [(1297, 64), (250, 64), (250, 64)]
    assert data.image_shape == (8, 8)
    together = torch.cat([data.train, data.valid, data.test]).numpy()
    expected = (sklearn.load_digits().data >= 8).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, expected))
    assert not np.array_equal(together, expected), "the split must not follow the order of the file"


def test_digits_split_is_frozen():
    pytest.importorskip("sklearn.datasets")
    sums = [int(datasets.load("digits").split(key).sum()) for key in npz.SPLITS]
    assert sums == [26883, 5140, 5128]


def test_missing_scikit_learn_says_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'made_fast\[demo\]'"):
        datasets.load("digits")


def test_missing_pillow_says_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'made_fast\[demo\]'"):
        datasets.load_pillow()


@pytest.mark.parametrize(
    ("features", "shape"), [(784, (28, 28)), (64, (8, 8)), (16, None), (123, None), (1, None), (785, None)]
)
def test_image_shape(features, shape):
    assert datasets.image_shape(features) == shape


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"valid": None}, "lacks valid"),
        ({"train": None, "n_features": None}, "lacks train"),
        ({"train": np.zeros((0, 2), np.uint8)}, "train has no rows"),
        ({"test": np.zeros((2, 3), np.uint8)}, "test must have 2 bytes a row to hold 9 variables, got 3"),
        ({"test": np.zeros((2, 2))}, "test must be a uint8 matrix"),
        ({"test": np.zeros(2, np.uint8)}, "test must be a uint8 matrix"),
        ({"test": np.full((2, 2), 255, np.uint8)}, "test has values beyond its 9 variables"),
        ({"n_features": np.asarray(0)}, "n_features must be one positive integer"),
        ({"n_features": np.asarray([9, 9])}, "n_features must be one positive integer"),
        ({"n_features": np.asarray(9.0)}, "n_features must be one positive integer"),
        ({"train": np.asarray([{"an": "object"}], dtype=object)}, "cannot be read"),
    ],
)
def test_bad_members_are_named(tmp_path, replaced, message):
    with pytest.raises(ValueError, match=message) as error:
        datasets.load(write_npz(tmp_path / "rows.npz", 9, **replaced))
    assert "rows.npz" in str(error.value)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "flipped", "array", "folder"])
def test_damaged_files_are_value_errors(tmp_path, damage):
    path = write_npz(tmp_path / "rows.npz", 123)
    content = bytearray(path.read_bytes())
    if damage == "array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "folder":
        path = tmp_path / "folder.npz"
        path.mkdir()
    else:
        content[60] ^= 0xFF  # inside the compressed rows
        path.write_bytes({"text": b"hello, hello", "empty": b"", "cut": content[:-40], "flipped": content}[damage])
    with pytest.raises(ValueError, match=path.name):
        datasets.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data at .*gone\.npz"):
        datasets.load(tmp_path / "gone.npz")


def test_split_names_are_checked():
    one = torch.zeros(1, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="split must be one of train, valid, test, got 'all'"):
        datasets.Dataset("x", one, one, one, None).split("all")


def read_rows(path: Path) -> np.ndarray:
    loaded = np.load(path)
    if path.suffix == ".npy":
        return loaded
    return np.unpackbits(loaded["samples"], axis=1, count=int(loaded["n_features"]))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("num_rows", [0, 1, 11])
def test_written_rows_come_back_and_do_not_depend_on_the_chunks(tmp_path, suffix, num_rows):
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (num_rows, 13), dtype=np.uint8))
    contents = []
    for size in (1, 4, 100):
        path = tmp_path / f"rows{size}{suffix}"
        datasets.write_rows(path, iter(rows.split(size)) if num_rows else iter(()), num_rows, 13)
        np.testing.assert_array_equal(read_rows(path), rows.numpy())
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_failed_write_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"old")

    def chunks():
        yield torch.zeros(1, 13, dtype=torch.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.write_rows(path, chunks(), 2, 13)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_grid_puts_each_image_in_its_cell():
    rows = torch.eye(6, dtype=torch.uint8)[:5]  # five images of 2 x 3 pixels, a different one lit in each
    grid = datasets.image_grid(rows, (2, 3), columns=2, scale=4)
    assert grid.shape == (3 * 12 + 4, 2 * 16 + 4)
    for index in range(5):
        top, left = 4 + index // 2 * 12, 4 + index % 2 * 16
        cell = grid[top : top + 8, left : left + 12]
        for pixel in range(6):
            y, x = pixel // 3 * 4, pixel % 3 * 4
            assert (cell[y : y + 4, x : x + 4] == (0 if pixel == index else 255)).all()
    assert (grid[-12:-4, -16:-4] == grid[0, 0]).all(), "the cell without an image is background"


@pytest.mark.parametrize(("titles", "height"), [(("", " "), 50 + 28), (("",), 50)])
def test_png_holds_the_panels(tmp_path, titles, height):
    image = pytest.importorskip("PIL.Image")
    panels = {title: np.full((50, 20), 10 * index, np.uint8) for index, title in enumerate(titles)}
    datasets.write_png(tmp_path / "x.png", panels)
    with image.open(tmp_path / "x.png") as picture:
        assert picture.size == (20 * len(titles) + 16 * (len(titles) - 1), height)
        assert picture.getpixel((5, height - 1)) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
