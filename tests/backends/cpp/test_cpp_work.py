"""Work instead of seconds: what a draw may cost is counted, so that a slow machine cannot hide a regression."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from made_fast import MADE, backends, build_config

SHAPES = [(16, (64, 64)), (64, (128, 128)), (100, (37, 53)), (50, (200,)), (784, (512, 512))]
pytest.importorskip("made_fast._core", reason="the compiled module is not installed")
cpp = importlib.import_module("made_fast.backends.cpp")


def _native(model: MADE) -> Any:
    return cpp.pack(model.program(), model.sampler().schedule).native


@pytest.mark.parametrize(("features", "hidden"), SHAPES)
def test_macs_are_the_unmasked_connections(features: int, hidden: tuple[int, ...]) -> None:
    model = MADE(features, hidden)
    layers = [*model.hidden, model.parameters_layer]
    sampler = model.sampler()
    assert sampler.macs == sum(int(layer.mask.sum()) for layer in layers)
    assert sampler.dense_macs == sum(layer.weight.numel() for layer in layers)


@pytest.mark.parametrize(("features", "hidden"), SHAPES)
def test_the_engine_multiplies_what_the_schedule_asks(features: int, hidden: tuple[int, ...]) -> None:
    """Zeros under the mask are not multiplied, but for the fill of the last panel of a layer and of whole vectors."""
    model = MADE(features, hidden)
    native, macs = _native(model), model.sampler().macs
    layers = [*model.hidden, model.parameters_layer]
    fill_of_panels = sum(2 * (-layer.out_features % 8) * layer.in_features for layer in layers)
    fill_of_vectors = sum(2 * 15 * layer.in_features for layer in layers)
    assert macs <= native.panel_macs <= macs + fill_of_panels
    assert macs <= native.column_macs <= macs + fill_of_vectors


def test_wide_networks_waste_next_to_nothing() -> None:
    model = MADE(784, (512, 512))
    assert _native(model).panel_macs <= 1.002 * model.sampler().macs


@pytest.mark.parametrize("isa", build_config()["instruction_sets"])
def test_scratch_does_not_grow_with_rows(isa: str) -> None:
    native = _native(MADE(784, (512, 512)))
    few, many = native.scratch_bytes(isa, 1000, 2), native.scratch_bytes(isa, 10_000_000, 2)
    assert few == many <= 1.5 * 2**20
    assert native.scratch_bytes(isa, 1, 2) <= 2**15


@pytest.mark.parametrize("isa", build_config()["instruction_sets"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("features", "hidden"), [(1, (8, 8)), (2, ()), (3, (4,) * 6), *SHAPES])
def test_the_last_tile_fits_into_the_scratch_of_the_widest(
    features: int, hidden: tuple[int, ...], dtype: torch.dtype, isa: str
) -> None:
    """A tile of few rows has places that no wider one has: in a small network they are more than it saves."""
    native = _native(MADE(features, hidden, dtype=dtype))
    whole = native.scratch_bytes(isa, 1000, 1)
    for left in range(2, 48):
        assert native.scratch_bytes(isa, left, 1, left) <= whole


@pytest.mark.parametrize("rows", [1, 3, 100, 5000])
def test_one_kernel_call_for_a_draw(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """One call for all variables of all rows; only calls of many gigaflops are cut, so that Ctrl-C need not wait."""
    sampler, calls = MADE(64, (64,)).sampler(), []

    def counted(*arguments: Any) -> None:
        calls.append(1)
        cpp.draw(*arguments)

    counting = SimpleNamespace(draw=counted, pack=cpp.pack)
    monkeypatch.setattr(backends, "load", lambda backend: counting)
    assert sampler.sample(rows, seed=1, backend="cpp").shape == (rows, 64)
    assert len(calls) == 1


def test_weights_are_packed_once_and_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packs: list[str] = []
    for name in ("pack", "repack"):
        real = getattr(cpp, name)
        monkeypatch.setattr(cpp, name, lambda *arguments, real=real, name=name: packs.append(name) or real(*arguments))
    model = MADE(20, (30,))
    for _ in range(3):
        model.sample(5, seed=1, backend="cpp")
        model.sampler().sample_and_log_prob(500)
    assert packs == ["pack"]
    with torch.no_grad():
        model.hidden[0].bias.add_(1)
    model.sample(5, backend="cpp")
    assert packs == ["pack", "repack"]
