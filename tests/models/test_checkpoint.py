"""Model files: what is saved comes back, and everything else is refused in one line without running its code."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from made_fast import MADE
from made_fast.models import files as checkpoint

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]


@pytest.fixture
def saved(tmp_path: Path, build: Build, every_option: dict[str, Any]) -> Path:
    """A model file with every kind of tensor in it."""
    path = tmp_path / "model.safetensors"
    build(every_option["residual_direct_context"], torch.float32).save(path)
    return path


def _refused(path: Path) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        MADE.load(path)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_the_file_is_safetensors_with_its_configuration_in_the_metadata(saved: Path) -> None:
    model = MADE.load(saved)
    assert load_file(saved).keys() == model.state_dict().keys()
    with safetensors.safe_open(saved, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config["features"] == 9
    assert config["residual"] is True


def test_a_saved_model_is_replaced_whole(saved: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(tensors: Any, path: Any, **options: Any) -> None:
        Path(path).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        build({"hidden_features": (4,)}).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    monkeypatch.undo()
    build({"hidden_features": (4,)}).save(saved)
    assert MADE.load(saved).hidden_features == (4,)


def test_folders_that_do_not_exist_are_named(tmp_path: Path, build: Build) -> None:
    model = build({"hidden_features": (4,)})
    for path in (tmp_path / "missing" / "model", tmp_path / "deep" / "er" / "model"):
        with pytest.raises(OSError, match=rf"{path.parent}.* does not exist") as error:
            model.save(path)
        assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as error:
        model.save(tmp_path / "file" / "model")
    assert "\n" not in str(error.value)
    with pytest.raises(OSError, match=str(tmp_path)):
        model.save(tmp_path)  # a folder


def test_files_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors") as error:
        MADE.load(tmp_path / "missing.safetensors")
    assert "\n" not in str(error.value)
    with pytest.raises((OSError, ValueError), match=tmp_path.name):
        MADE.load(tmp_path)


def test_truncated_files_are_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    lengths = {0, 1, 7, 8, 9, 100, len(whole) - 1, len(whole) - 4}
    lengths |= {len(whole) * part // 25 for part in range(25)}
    for length in sorted(lengths):
        saved.write_bytes(whole[:length])
        assert "truncated" in _refused(saved), length
    saved.write_bytes(whole + b"more")
    _refused(saved)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    chance = random.Random(0)
    contents = [chance.randbytes(size) for size in (1, 8, 64, 5000)]
    contents += [pickle.dumps({"a": 1}), b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(50), b"{}\n" * 40]
    contents += [(2**40).to_bytes(8, "little") + b"{}", (10).to_bytes(8, "little") + b'{"a": null'[:10]]
    for content in contents:
        foreign.write_bytes(content)
        _refused(foreign)
    torch.save({"weight": torch.zeros(3)}, foreign)
    _refused(foreign)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    _refused(tmp_path / "foreign.npz")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"format": "made_fast 999", "config": "{}"}, {"config": "{}"}]
)
def test_safetensors_of_another_program_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other", metadata=metadata)
    assert "MADE" in _refused(tmp_path / "other")


class _Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [lambda p, o: p.write_bytes(pickle.dumps(o)), lambda p, o: torch.save(o, p)])
def test_loading_never_unpickles(tmp_path: Path, write: Callable[[Path, Any], Any]) -> None:
    trap, file = tmp_path / "code_ran", tmp_path / "evil"
    write(file, {"state": _Payload(trap)})
    _refused(file)
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Payload(trap)))  # the trap does work
    assert trap.exists()


def _edited(
    path: Path, *, config: dict[str, Any] | str | None = None, tensors: dict[str, Tensor | None] | None = None
) -> None:
    """Writes the model file again with some of its configuration or tensors changed (None: taken out)."""
    state, known = checkpoint.load(path)
    state = {name: t for name, t in {**state, **(tensors or {})}.items() if t is not None}
    text = config if isinstance(config, str) else json.dumps({**known, **(config or {})})
    save_file(state, path, metadata={"format": checkpoint._FORMAT, "config": text})


def test_an_edited_file_that_still_fits_loads(saved: Path) -> None:
    _edited(saved, config={"activation": "tanh", "output": {"name": "bernoulli"}})
    assert MADE.load(saved).activation == "tanh"


@pytest.mark.parametrize(
    "config",
    [
        *("", "null", "[]", "3", "{}", '{"features": 9', "\x00"),
        *({"features": value} for value in (8, -1, 0, "9", 9.5, None, [])),
        *({"hidden_features": value} for value in ([16], [16, 17], 16, None, "ab", [0, 0], [None, None])),
        *({"order": value} for value in (None, 3, {}, [0] * 9, list(range(8)), "zigzag", [0.5] * 9)),
        *({"output": value} for value in (None, 3, [], "poisson", "normal", "categorical", {}, {"name": "poisson"})),
        *({"output": {"name": "categorical", "sizes": value}} for value in (3, 0, None, "ab", [2], [1] * 8 + [2], 1.5)),
        {"output": {"name": "categorical", "sizes": 10**15}},  # refused before memory is asked for
        {"output": {"name": "mixture_of_normals", "components": 10**15}},
        {"output": {"name": "bernoulli", "floor": 1}},
        *({"activation": value} for value in (None, [], "step", 3)),
        *({"context_features": value} for value in (0, 2, "3", None, -1)),
        *({"degrees": "odd"}, {"degrees": None}, {"residual": False}, {"direct": False}, {"seed": "a"}),
        {"unknown": 1},
    ],
    ids=str,
)
def test_broken_configurations_are_refused(saved: Path, config: Any) -> None:
    _edited(saved, config=config)
    _refused(saved)


LAYER = "parameters_layer"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(f"{LAYER}.weight", lambda t: None, id="weight_missing"),
        pytest.param(f"{LAYER}.weight", lambda t: t[:-1], id="weight_short"),
        pytest.param(f"{LAYER}.weight", lambda t: t.T, id="weight_transposed"),
        pytest.param(f"{LAYER}.bias", lambda t: None, id="bias_missing"),
        pytest.param(f"{LAYER}.mask", lambda t: None, id="mask_missing"),
        pytest.param(f"{LAYER}.mask", lambda t: t[:, :-1], id="mask_narrow"),
        pytest.param(f"{LAYER}.mask", torch.ones_like, id="mask_leaks"),  # a model that leaks is no density
        pytest.param(f"{LAYER}.mask", lambda t: t.flip(0), id="mask_of_another_order"),
        pytest.param("order", lambda t: t.flip(0), id="order_of_another_mask"),
        pytest.param("order", lambda t: t * 0, id="order_no_permutation"),
    ],
)
def test_tensors_that_do_not_fit_their_configuration_are_refused(saved: Path, name: str, change: Any) -> None:
    changed = change(checkpoint.load(saved)[0][name])
    _edited(saved, tensors={name: None if changed is None else changed.contiguous()})
    _refused(saved)


def test_connections_taken_out_stay_out(tmp_path: Path, build: Build) -> None:
    """Masks may have fewer connections than their configuration gives them, and come back as they were."""
    model = build({"hidden_features": (12,), "direct": True})
    with torch.no_grad():
        model.direct_layer.mask[4:, :3] = False
    model.save(tmp_path / "pruned")
    other = MADE.load(tmp_path / "pruned")
    assert torch.equal(other.direct_layer.mask, model.direct_layer.mask)
    assert torch.equal(other.sample(30, seed=1), model.sample(30, seed=1))


def test_masks_from_another_model_stay_too(tmp_path: Path) -> None:
    """What ``save`` wrote, ``load`` reads: also where masks came by ``load_state_dict`` from a model of other degrees."""
    options = {"hidden_features": (7, 7), "degrees": "random", "order": "random"}
    model, other = MADE(9, **options, seed=1), MADE(9, **options, seed=2)
    assert not torch.equal(model.parameters_layer.mask, other.parameters_layer.mask)
    model.load_state_dict(other.state_dict())
    model.save(tmp_path / "mixed")
    assert torch.equal(MADE.load(tmp_path / "mixed").sample(30, seed=1), other.sample(30, seed=1))


def test_misfits_name_the_tensor_and_both_shapes(saved: Path) -> None:
    _edited(saved, config={"context_features": 2})
    message = _refused(saved)
    assert "context_layer.weight" in message
    assert "(16, 3)" in message.replace("[", "(").replace("]", ")")
    assert "(16, 2)" in message.replace("[", "(").replace("]", ")")
    _edited(saved, config={"context_features": 3}, tensors={"surplus": torch.zeros(1)})
    assert "surplus" in _refused(saved)
    _edited(saved, tensors={"surplus": None, f"{LAYER}.bias": None})
    assert f"{LAYER}.bias" in _refused(saved)


def test_random_damage_to_the_header_never_ends_in_another_error(saved: Path) -> None:
    """Either a clear refusal, or a model that is autoregressive all the same (a damaged name of an activation, say)."""
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    chance, outcomes = random.Random(3), {"refused": 0, "loaded": 0}
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 4])):
            damaged[chance.randrange(header)] = chance.randrange(256)
        saved.write_bytes(damaged)
        try:
            model = MADE.load(saved)
        except (ValueError, OSError) as error:
            message = str(error)
            outcomes["refused"] += "\n" not in message
        else:
            model.sample(2, torch.zeros(1, model.context_features))
            outcomes["loaded"] += 1
    assert sum(outcomes.values()) == 150, outcomes
    assert outcomes["refused"] > 100


DAMAGE = str(Path(__file__).parents[1] / "support" / "damaged_files.py")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by a call of Linux")
@pytest.mark.parametrize(("seed", "number"), [(1, 300), pytest.param(2, 3000, marks=pytest.mark.slow)])
def test_whatever_is_done_to_a_file_little_memory_is_asked_for(tmp_path: Path, seed: int, number: int) -> None:
    command = [sys.executable, DAMAGE, str(seed), str(tmp_path), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, loaded = map(int, done.stdout.split())
    assert refused + loaded == number
    assert refused > number // 2


def test_flags_are_flags(saved: Path) -> None:
    flags = {"residual": True, "direct": True, "mask_conditioning": False}
    for name in flags:
        for value in (1, 0, "yes", None, [True]):
            _edited(saved, config={**flags, name: value})
            assert f"{name} must be True or False" in _refused(saved)
    _edited(saved, config=flags)
    MADE.load(saved)
