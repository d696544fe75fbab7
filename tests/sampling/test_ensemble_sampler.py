"""Draws from ensembles: the laws of samplers for one mask and for all of them, and samplers that are never stale."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import made_fast.sampling.ensemble_sampler
from made_fast import MADE, Sampler, backends
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.testing import naive_sample

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float32)) is None
]
COMPILED = [name for name in USABLE if name != "reference"]
PLAIN = {"hidden_features": (14, 11), "num_masks": 3, "direct": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "everything": {
        **{"hidden_features": (12, 12), "residual": True, "direct": True, "context_features": 2},
        **{"num_masks": 3, "mask_conditioning": True},
    },
    "orders": {"hidden_features": (16,), "num_masks": 5, "shuffle": "order", "mask_conditioning": True},
    "connectivity": {"hidden_features": (16, 9), "num_masks": 2, "shuffle": "connectivity", "order": "random"},
    "endless": {"hidden_features": (16,), "num_masks": 0, "context_features": 1, "activation": "gelu"},
    "belief_network": {"hidden_features": (), "direct": True, "num_masks": 4},
}
FALSE_ALARM = 1e-5  # how often a correct sampler fails one of the tests of chance, over all seeds; the seed is fixed


def test_each_mask_is_packed_once_and_when_needed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = build(PLAIN), []
    cpp = backends.load(next(backend for backend in backends.BACKENDS if backend.name == USABLE[0]))
    pack = cpp.pack
    monkeypatch.setattr(cpp, "pack", lambda *arguments: packed.append(1) or pack(*arguments))
    kept = model.sampler()
    assert packed == []
    for _ in range(3):
        model.next_mask()  # changes what is current, and no sampler
        model.sample(10, mask=1)
        assert model.sampler() is kept
        assert model.sampler(mask=1) is kept.of_mask(1)
    assert packed == [1]
    for _ in range(3):
        model.sample(100)
        model.eval().sample_and_log_prob(100)
    assert packed == [1] * 3
    assert isinstance(kept, EnsembleSampler)
    assert isinstance(model.sampler(mask=0), Sampler)
    one = MADE(9, (8,))
    assert one.sampler(mask=0) is one.sampler()


def test_both_kinds_of_sampler_take_the_same_arguments() -> None:
    for name in ("sample", "sample_and_log_prob"):
        assert inspect.signature(getattr(EnsembleSampler, name)) == inspect.signature(getattr(Sampler, name))


def test_packed_weights_have_a_limit(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(PLAIN)
    expected = model.sample(50, seed=1)
    monkeypatch.setattr(made_fast.sampling.ensemble_sampler, "_PACKED_BYTES", 1)
    sampler = build(PLAIN).sampler()
    for _ in range(2):
        assert torch.equal(sampler.sample(50, seed=1), expected)
        assert len(sampler._samplers) == 1


def test_log_probabilities_come_in_pieces(build: Build, make_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(OPTIONS["everything"])
    context = make_context(model, 7)
    x, log_prob = model.sample_and_log_prob(9, context, seed=1)
    monkeypatch.setattr(made_fast.sampling.ensemble_sampler, "_VALUES_AT_ONCE", 100)
    again = model.sample_and_log_prob(9, context, seed=1)
    assert torch.equal(again[0], x)
    torch.testing.assert_close(again[1], log_prob)


def test_dtypes_smallest_requests_and_progress(build: Build, capsys: Any) -> None:
    model, given = build(PLAIN), build(OPTIONS["everything"])
    expected, context = model.sample(30, seed=1), torch.zeros(2, 2)
    for dtype in (torch.uint8, torch.bool, torch.float32):
        x, log_prob = model.sample_and_log_prob(30, seed=1, dtype=dtype)
        assert x.dtype == model.sample(3, dtype=dtype).dtype == dtype
        assert torch.equal(x.double(), expected)
        assert log_prob.dtype == torch.float64
    assert [t.shape for t in model.sample_and_log_prob(0)] == [(0, 9), (0,)]
    assert [t.shape for t in model.sample_and_log_prob(1)] == [(1, 9), (1,)]
    assert given.sample(0, context).shape == (2, 0, 9)
    assert given.sample(4, context[:0]).shape == (0, 4, 9)
    assert [t.shape for t in given.sample_and_log_prob(1, context)] == [(2, 1, 9), (2, 1)]
    capsys.readouterr()
    assert torch.equal(model.sample(30, seed=1, progress=True), expected)
    assert "30" in capsys.readouterr().err
    torch.manual_seed(4)
    first = model.sample(60)
    assert not torch.equal(model.sample(60), first)
    torch.manual_seed(4)
    assert torch.equal(model.sample(60), first)
    assert torch.equal(*(model.sample(60, generator=torch.Generator().manual_seed(2)) for _ in range(2)))


def test_autocast_and_inference_mode_change_nothing(build: Build) -> None:
    model = build({**PLAIN, "mask_conditioning": True}, torch.float32)
    x, log_prob = model.sample_and_log_prob(50, seed=1)
    for mode in (torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()):
        with mode:
            again = model.sample_and_log_prob(50, seed=1)
            other = build({**PLAIN, "mask_conditioning": True}, torch.float32).sample(50, seed=1)
        assert torch.equal(again[0], x)
        assert torch.equal(again[1], log_prob)
        assert torch.equal(other, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.log_prob(x, masks=range(3))
    assert ((found - log_prob).abs() < 0.05 * log_prob.abs() + 0.3).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1}, r"num_samples must be .*, got -1"),
        ({"first_row": 0.5}, r"first_row must be .*, got 0\.5"),
        ({"rows": torch.zeros(2).long()}, r"rows must be .* \(3,\), .*, got torch\.int64 \(2,\)"),
        ({"seed": 1.5}, r"seed must be .*, got 1\.5"),
        ({"backend": "abacus"}, r"backend must be .*, got 'abacus'"),
        ({"num_samples": 0, "backend": "abacus"}, r"backend must be .*, got 'abacus'"),
        ({"context": torch.zeros(2, 3)}, r"context must be None .*\(2, 3\)"),
    ],
)
def test_bad_requests_are_named(build: Build, arguments: dict[str, Any], message: str) -> None:
    model = build(PLAIN)
    for call in (model.sample, model.sample_and_log_prob, model.sampler().sample):
        with pytest.raises(ValueError, match=rf"^{message}\Z"):
            call(**{"num_samples": 3, **arguments})
    with pytest.raises(ValueError, match=r"^mask must be given for bf16_weights in an ensemble, got None\Z"):
        model.sampler(bf16_weights=True)
    with torch.no_grad():
        model.parameters_layer.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"^weights must be finite"):
        model.sample(2)


def test_schedules_outlive_a_change_of_the_weights_but_not_of_the_masks(build: Build) -> None:
    """Finding one takes longer than drawing a thousand rows."""
    model = build({"hidden_features": (14,), "num_masks": 3})
    model.sample(60, seed=1)
    first = model.sampler()
    with torch.no_grad():
        model.parameters_layer.weight.mul_(2)
    second = model.sampler()
    model.sample(60, seed=1)
    assert isinstance(first, EnsembleSampler) and isinstance(second, EnsembleSampler)
    assert second is not first
    assert all(second.schedules[mask] is first.schedules[mask] for mask in range(3))
    model.ensemble.orders[1] = model.ensemble.orders[1].flip(0)
    assert model.sampler().schedules == {}
    assert torch.equal(model.sample(60, seed=1, mask=1), naive_sample(model, 60, seed=1, mask=1))
