"""Files that made-fast writes hold the values that were drawn; files that it reads may be damaged."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call, one_line
from models import OUTPUTS

from made_fast import MADE
from made_fast.outputs import Categorical, Mixed

image = pytest.importorskip("PIL.Image")
MODELS: dict[str, Any] = {
    **OUTPUTS,
    "300": Categorical(300),
    "200 and spins": Mixed([(Categorical(200), 2), ("spin", 2)]),
}
DTYPES = {  # the smallest that holds them
    **dict.fromkeys(("normal", "mixture_of_normals", "mixed"), "float32"),
    **{"spin": "int8", "300": "int16", "200 and spins": "int16", "mixed_finite": "int8"},
}


def saved(path: Path, output: Any, dtype: torch.dtype = torch.float32, **options: Any) -> MADE:
    torch.manual_seed(0)
    model = MADE(4, (8,), output=output, **options).to(dtype)
    model.save(path)
    return model


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("name", MODELS)
def test_files_hold_what_is_drawn(tmp_path: Path, capsys: Any, name: str, suffix: str) -> None:
    for dtype in (torch.float32, torch.float64):
        model = saved(tmp_path / "m.safetensors", MODELS[name], dtype)
        expected = model.sample(200, seed=3).numpy()
        out = tmp_path / f"x.{suffix}"
        status, _, err = call(capsys, "sample", tmp_path / "m.safetensors", "-n", 200, "--seed", 3, "--out", out)
        assert status == 0, err
        found = np.load(out)
        if suffix == "npz":
            packed = "n_features" in found
            assert packed == (name == "bernoulli")
            found = np.unpackbits(found["samples"], axis=1, count=4) if packed else found["samples"]
        want = DTYPES.get(name, "uint8")
        assert found.dtype == (expected.dtype if want == "float32" else want)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_half_precision_are_written_in_full(tmp_path: Path, capsys: Any, dtype: torch.dtype) -> None:
    for output in (Categorical(3000), "normal"):
        model = saved(tmp_path / "m.safetensors", output, dtype)
        words = ("sample", tmp_path / "m.safetensors", "-n", 500, "--out", tmp_path / "x.npy")
        assert call(capsys, *words)[0] == 0
        expected = model.sample(500, seed=0, dtype=torch.float64).numpy()
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


def test_shards_join_whatever_the_values(tmp_path: Path, capsys: Any) -> None:
    model = saved(tmp_path / "m.safetensors", Categorical(300))
    for rank in range(3):
        words = ("sample", tmp_path / "m.safetensors", "-n", 100, "--out", tmp_path / "x.npy")
        assert call(capsys, *words, "--rank", rank, "--world-size", 3)[0] == 0
    joined = np.concatenate([np.load(file) for file in sorted(tmp_path.glob("x-*.npy"))])
    np.testing.assert_array_equal(joined, model.sample(100, seed=0).numpy())
    assert joined.max() > 255


def test_a_picture_shows_the_values_as_grey_levels(tmp_path: Path, capsys: Any) -> None:
    for output, low, levels in (("spin", -1, 2), (Categorical(5), 0, 5), ("bernoulli", 0, 2)):
        model = saved(tmp_path / "m.safetensors", output)
        words = ("sample", tmp_path / "m.safetensors", "-n", 1, "--image-shape", 2, 2, "--out", tmp_path / "x.png")
        assert call(capsys, *words)[0] == 0
        with image.open(tmp_path / "x.png") as picture:
            pixels = np.asarray(picture)[42:84:28, 42:84:28].astype(float)  # the middles of the four pixels
        step = 2 if low else 1
        share = (model.sample(1, seed=0).reshape(2, 2).numpy() - low) / step / (levels - 1)
        np.testing.assert_allclose(pixels, 255 * (1 - share), atol=0.5)
    for output, message in (("normal", "must be finite"), (Mixed(["spin", ("bernoulli", 3)]), "all take the same")):
        saved(tmp_path / "m.safetensors", output)
        words = ("sample", tmp_path / "m.safetensors", "-n", 1, "--image-shape", 2, 2, "--out", tmp_path / "y.png")
        one_line(call(capsys, *words), message)
    assert not (tmp_path / "y.png").exists()


def write_data(path: Path, features: int = 4) -> Path:
    rows = np.random.default_rng(0).integers(0, 2, (50, features), dtype=np.uint8)
    packed = np.packbits(rows, axis=1)
    np.savez(path, train=packed, valid=packed[:20], test=packed[:10], n_features=features)
    return path


def _changes(whole: bytes, count: int) -> list[bytes]:
    """Some bytes replaced, or the end cut off."""
    random = np.random.default_rng(1)
    changed = []
    for number in range(count):
        copy = bytearray(whole)
        for place in random.integers(0, len(whole), 1 + number % 8):
            copy[place] = random.integers(256)
        changed.append(bytes(copy if number % 4 else copy[: random.integers(len(copy))]))
    return changed


def test_damaged_data_is_one_line(tmp_path: Path, capsys: Any) -> None:
    saved(tmp_path / "m.safetensors", "bernoulli")
    data = write_data(tmp_path / "rows.npz")
    refused = 0
    for damaged in _changes(data.read_bytes(), 150):
        data.write_bytes(damaged)
        result = call(capsys, "evaluate", tmp_path / "m.safetensors", data)
        if result[0]:
            refused += 1
            one_line(result, "rows")
    assert refused > 50


def test_damaged_checkpoints_are_one_line(tmp_path: Path, capsys: Any) -> None:
    data, out = write_data(tmp_path / "rows.npz"), tmp_path / "m.safetensors"
    words = ("train", data, "--out", out, "--hidden", 8, "--epochs", 1, "--threads", 1)
    assert call(capsys, *words, "--max-minutes", "1e-9")[0] == 0
    trained = [MADE.load(out).state_dict()]
    checkpoint = tmp_path / "m.safetensors.ckpt"
    whole = checkpoint.read_bytes()
    state = torch.load(checkpoint, weights_only=True)
    out.unlink()
    for damaged in _changes(whole, 60):
        checkpoint.write_bytes(damaged)
        result = call(capsys, *words, "--resume")
        if result[0]:
            one_line(result, "checkpoint")
        else:  # what was changed is not read by anybody
            trained.append(MADE.load(out).state_dict())
            assert all(torch.equal(value, trained[0][name]) for name, value in trained[-1].items())
    assert len(trained) < 30
    for name in state:
        for wrong in (None, [], {}, "text", 7, torch.zeros(2)):
            torch.save({**state, name: wrong}, checkpoint)
            result = call(capsys, *words, "--resume")
            if result[0]:
                one_line(result, "checkpoint")
            else:
                assert (name, wrong) in (
                    ("history", []),
                    ("steps", 7),
                ) or not wrong  # another number is not seen to be wrong


def test_damaged_models_are_one_line(tmp_path: Path, capsys: Any) -> None:
    path, data = tmp_path / "m.safetensors", write_data(tmp_path / "rows.npz")
    saved(path, "bernoulli")
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for damaged in _changes(whole[: header + 8], 100):
        path.write_bytes(damaged + whole[header + 8 :])
        result = call(capsys, "evaluate", path, data)
        if result[0]:
            one_line(result, "m.safetensors")


def test_an_nll_that_is_no_number_is_an_error(tmp_path: Path, capsys: Any) -> None:
    model, data = saved(tmp_path / "m.safetensors", "bernoulli"), write_data(tmp_path / "rows.npz")
    with torch.no_grad():
        model.hidden[0].bias.fill_(torch.nan)
    model.save(tmp_path / "m.safetensors")
    one_line(call(capsys, "evaluate", tmp_path / "m.safetensors", data), "NLL of the test rows is nan")
    one_line(call(capsys, "sample", tmp_path / "m.safetensors", "--out", tmp_path / "x.npy"), "weights must be finite")


def test_a_width_that_no_memory_holds_is_one_line(tmp_path: Path, capsys: Any) -> None:
    data = write_data(tmp_path / "rows.npz")
    for width in (10**12, 2**40, 2**62, 2**63, 10**30):
        result = call(capsys, "train", data, "--out", tmp_path / "m.safetensors", "--hidden", width, width)
        one_line(result, "memory|width")


def test_a_second_training_does_not_overwrite_the_first(tmp_path: Path, capsys: Any) -> None:
    data, out = write_data(tmp_path / "rows.npz"), tmp_path / "m.safetensors"
    words = ("train", data, "--out", out, "--hidden", 8, "--epochs", 1, "--threads", 1)
    assert call(capsys, *words)[0] == 0
    first = out.read_bytes()
    one_line(call(capsys, *words, "--seed", 1), "is there already: add --overwrite")
    assert out.read_bytes() == first
    assert call(capsys, *words, "--seed", 1, "--overwrite")[0] == 0
    assert out.read_bytes() != first


def test_what_is_no_file_is_not_replaced(tmp_path: Path, capsys: Any) -> None:
    saved(tmp_path / "m.safetensors", "bernoulli")
    (tmp_path / "x.npy").symlink_to("/dev/null")
    one_line(call(capsys, "sample", tmp_path / "m.safetensors", "--out", tmp_path / "x.npy"), "no regular file")
    (tmp_path / "y.npy").symlink_to("z")
    assert call(capsys, "sample", tmp_path / "m.safetensors", "--out", tmp_path / "y.npy")[0] == 0
    assert (tmp_path / "y.npy").is_symlink()
    assert np.load(tmp_path / "z").shape == (100, 4)


@pytest.mark.parametrize(
    "words", [("evaluate", "gone", "digits"), ("sample", "gone", "--out", "x.npy"), ("doctor", "gone.safetensors")]
)
def test_a_missing_file_is_status_1_everywhere(tmp_path: Path, capsys: Any, monkeypatch: Any, words: Any) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(call(capsys, *words), "no model file at gone")
