"""The experiments of benchmarks/experiments on small made-up images: they run, resume, and show what they say."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.experiments import autoencoder, common, direct, filling, leak, orders
from made_fast import MADE, accelerate, masks

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
SHAPE = (8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of bars, upright or level, with a few pixels flipped."""
    rng = np.random.default_rng(0)
    found, path = {}, tmp_path_factory.mktemp("data")
    for name, count in {"train": 6000, "valid": 500, "test": 100}.items():
        rows = np.zeros((count, *SHAPE), dtype=bool)
        for image, place in zip(rows, rng.integers(16, size=count), strict=True):
            image[place % 8, :] = place < 8
            image[:, place % 8] |= place >= 8
        found[name] = np.packbits(rows.reshape(count, 64) ^ (rng.random((count, 64)) < 0.03), axis=1)
    np.savez_compressed(path / "bars.npz", n_features=64, **found)
    return path


def run(module: Any, folder: Path, out: Path, *, epochs: int, **options: object) -> dict[str, Any]:
    """What an experiment writes; its figure must be a PNG that is not large."""
    given = {"data": folder, "set": "bars", "out": out, "epochs": epochs, "hidden": 64, **options}
    name = module.__name__.rpartition(".")[2]
    assert main([name, *(f"--{option}={value}" for option, value in given.items())]) == 0
    result: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    picture = (out / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 300_000
    assert {len(each["curve"]) for each in result["runs"].values()} == {epochs}
    assert all(math.isfinite(each["valid"]) for each in result["runs"].values())
    return result


@pytest.mark.slow
def test_direct(folder: Path, tmp_path: Path) -> None:
    result = run(direct, folder, tmp_path, epochs=3)
    sight = result["sight"]
    assert sight["narrow, without"]["missed by a variable"] > sight["wide, without"]["missed by a variable"] == 0
    for name in ("narrow, with", "wide, with", "direct connection alone"):
        assert sight[name]["variables cut off"] == 0
    assert result["runs"]["narrow, with"]["valid"] < result["runs"]["narrow, without"]["valid"]


@pytest.mark.slow
def test_training_in_turns_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    whole = run(direct, folder, tmp_path / "whole", epochs=2)
    first = run(direct, folder, tmp_path / "parts", epochs=1)
    parts = run(direct, folder, tmp_path / "parts", epochs=2)
    again = run(direct, folder, tmp_path / "parts", epochs=2)
    for name, each in whole["runs"].items():
        assert [epoch[:4] for epoch in parts["runs"][name]["curve"]] == [epoch[:4] for epoch in each["curve"]]
        assert parts["runs"][name]["curve"][:1] == first["runs"][name]["curve"]
        assert parts["runs"][name]["curve"] == again["runs"][name]["curve"]


@pytest.mark.slow
def test_no_epoch_is_begun_when_the_time_is_up(folder: Path, tmp_path: Path) -> None:
    main(
        [
            "direct",
            f"--data={folder}",
            "--set=bars",
            f"--out={tmp_path}",
            *["--epochs=9", "--minutes=1e-9", "--hidden=10"],
        ]
    )
    result = json.loads((tmp_path / "direct.json").read_text())
    assert {len(each["curve"]) for each in result["runs"].values()} == {1}


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (9, 9)])
def test_orders_are_permutations_and_differ(shape: tuple[int, int]) -> None:
    found = orders.orders_of(shape, 0)
    features = shape[0] * shape[1]
    assert all(torch.equal(each.sort().values, torch.arange(features)) for each in found.values())
    assert len({tuple(each.tolist()) for each in found.values()}) == len(found) == 7


def test_orders_are_what_they_are_called() -> None:
    found = orders.orders_of(SHAPE, 0)
    assert found["snake"][6:11].tolist() == [6, 7, 15, 14, 13]
    assert found["columns"][:3].tolist() == [0, 8, 16]
    assert found["coarse to fine"][:5].tolist() == [0, 4, 32, 36, 2]  # multiples of 8, of 4, then of 2
    assert set(found["centre out"][:4].tolist()) == {27, 28, 35, 36}
    assert set(found["centre out"][-4:].tolist()) == {0, 7, 56, 63}


@pytest.mark.slow
def test_orders(folder: Path, tmp_path: Path) -> None:
    result = run(orders, folder, tmp_path, epochs=3)
    differences = result["differences"]
    assert differences["natural"] == {"nats more": 0, "half-width": 0}
    for name, each in result["runs"].items():
        expected = each["valid"] - result["runs"]["natural"]["valid"]
        assert differences[name]["nats more"] == pytest.approx(expected, abs=1e-3)


def test_a_wrong_sequence_spoils_a_sample_and_the_right_one_does_not() -> None:
    torch.manual_seed(0)
    model = MADE(16, (32,), order="random", direct=True)
    torch.nn.init.normal_(model.parameters_layer.weight, std=2.0)
    assert model.direct_layer is not None
    torch.nn.init.normal_(model.direct_layer.weight, std=2.0)
    starts = (torch.zeros(200, 16), torch.ones(200, 16))
    proper, wrong = (
        [common.naive_draw(model, start, sequence, 0) for start in starts]
        for sequence in (model.order.tolist(), range(16))
    )
    assert torch.equal(*proper)
    assert not torch.equal(*wrong)


@pytest.mark.slow
def test_leak(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(leak, folder, tmp_path, epochs=14)
    nats = {name: each["valid"] for name, each in result["runs"].items()}
    entropy = 64 * -(0.03 * math.log(0.03) + 0.97 * math.log(0.97)) + math.log(16)  # of the bars: no density has less
    assert nats[leak.LEAKING] < entropy < nats[leak.PROPER] < nats[leak.STRICT]
    said = result["answers"]
    assert said["leaking.check()"].startswith(
        "ValueError: masks must follow the order, but variable 0 depends on variable 0"
    )
    assert "not autoregressive" in said["leaking.sample(1)"]
    assert "CaptureError" in said["made_fast.accelerate(leaking_plain_torch_module)"]
    assert "UserWarning: 63 variables cannot see all" in said["strict.check()"]
    printed = capsys.readouterr().out
    assert all(text in printed for text in said.values())


def test_check_flags_exactly_the_wrong_shifts() -> None:
    with pytest.raises(ValueError, match="variable 0 depends on variable 0"):
        leak.shifted(16, 32, 1).check()
    assert not leak.shifted(16, 32, 0).check().cut_off
    with pytest.warns(UserWarning, match="15 variables cannot see"):
        assert len(leak.shifted(16, 32, -1).check().cut_off) == 15


def test_accelerate_takes_the_proper_plain_network_and_refuses_the_leaking_one() -> None:
    assert accelerate(leak.PlainMADE(12, 24, leaking=False).eval()).sample(3, seed=0).shape == (3, 12)
    with pytest.raises(ValueError, match="autoregressive"):
        accelerate(leak.PlainMADE(12, 24, leaking=True).eval())


@pytest.mark.slow
def test_autoencoder(folder: Path, tmp_path: Path) -> None:
    result = run(autoencoder, folder, tmp_path, epochs=10)
    sums = {name: each["sum"] for name, each in result["patches"].items()}
    assert sums["MADE"] == pytest.approx([1] * 10, abs=1e-4)
    assert sums["autoencoder"][-1] > 2
    assert set(result["losses"]) == set(autoencoder.NAMES)


def test_the_sum_over_all_x() -> None:
    torch.manual_seed(0)
    assert autoencoder.total(MADE(8, (16,)), 8) == pytest.approx(1, abs=1e-5)
    plain = autoencoder.Autoencoder(8, 16)
    torch.nn.init.zeros_(plain.out.weight), torch.nn.init.zeros_(plain.out.bias)
    assert autoencoder.total(plain, 8) == pytest.approx(1, abs=1e-5)  # a coin for each variable is a density, by chance
    plain.out.weight.data[:, :8] = 20 * torch.eye(8)
    plain.hidden.weight.data[:8], plain.hidden.bias.data[:8] = torch.eye(8), 0.0
    plain.out.bias.data.fill_(-10)
    assert autoencoder.total(plain, 8) == pytest.approx(2**8, rel=0.01)  # the identity gives every x its own certainty


def test_a_patch_is_the_middle_of_an_image() -> None:
    assert autoencoder.patch_of(torch.arange(64)[None], SHAPE)[0].tolist() == [
        row * 8 + column for row in (2, 3, 4) for column in (2, 3, 4, 5)
    ]


@pytest.mark.parametrize("num_masks", [1, 3])
def test_filling_reveals_each_image_in_its_own_order(tmp_path: Path, num_masks: int) -> None:
    from PIL import Image

    model = MADE(64, (32,), num_masks=num_masks, shuffle="order")
    model.save(tmp_path / "model.safetensors")
    steps = filling.steps_of(model, 6, 0)
    assert all(torch.equal(own.sort().values, torch.arange(64)) for own in steps)
    options = {"lines": 2, "columns": 3, "frames": 16, "scale": 1}
    frames = filling.frames_of(model, **options, seed=0)
    drawn, first = model.sample(6, seed=0).reshape(6, 8, 8), frames[4][1:9, 1:9]
    known = (steps[0] < 16).reshape(8, 8).numpy()
    assert np.array_equal(first, np.where(known, 2 * drawn[0].numpy(), 1))
    assert [int((frame == 1).sum()) for frame in frames] == [6 * (64 - 4 * frame) for frame in range(17)]
    given = [f"--{name}={value}" for name, value in options.items()]
    main(["filling", f"--model={tmp_path / 'model.safetensors'}", f"--out={tmp_path}", *given])
    with Image.open(tmp_path / "filling.gif") as image:
        assert image.n_frames == 17


def test_one_order_is_filled_in_the_order_of_the_model() -> None:
    model = MADE(64, (32,), order="reversed")
    assert torch.equal(filling.steps_of(model, 2, 0)[1], masks.rank_of(model.order))


def test_a_set_that_has_no_images_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "rows.npz",
        n_features=10,
        **{name: np.zeros((3, 2), np.uint8) for name in ("train", "valid", "test")},
    )
    with pytest.raises(SystemExit, match="square images"):
        main(["direct", f"--data={tmp_path}", "--set=rows", f"--out={tmp_path}"])
    with pytest.raises(SystemExit):
        main(["direct", f"--data={tmp_path}", "--minutes=0"])
