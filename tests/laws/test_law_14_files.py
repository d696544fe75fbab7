"""Law 14: what is saved can be loaded, or saving says why not."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import CHANGES
from models import CASES, Case, context_of, made
from torch import nn

from made_fast import MADE
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.own import Own


def test_a_model_comes_back(tmp_path: Path, case: Case) -> None:
    for dtype in (torch.float32, torch.float64) if not case.quick else (torch.float32,):
        model, path = case.make(dtype), tmp_path / "model.safetensors"
        with torch.no_grad():  # to what no shorter type holds
            for parameter in model.parameters():
                parameter.mul_(1 + torch.rand_like(parameter) / 8)
        model.save(path)
        other = MADE.load(str(path)).eval()
        assert other.arguments() == model.arguments()
        state = model.state_dict()
        assert other.state_dict().keys() == state.keys()
        for name, tensor in other.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name])
        context = context_of(model, 2)
        for found, expected in zip(*(m.sample_and_log_prob(6, context, seed=1) for m in (other, model)), strict=True):
            assert torch.equal(found, expected)
        assert os.listdir(tmp_path) == [path.name]  # nothing is left behind


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bernoulli-residual_direct_context", "mixed_finite-both"])
def test_in_every_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = CASES[name].make(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.rand_like(parameter) / 8)
    model.save(tmp_path / "model")
    other = MADE.load(tmp_path / "model").eval()
    assert {tensor.dtype for tensor in other.parameters()} == {dtype}
    context = context_of(model, 2)
    assert torch.equal(other.sample(6, context, seed=1), model.sample(6, context, seed=1))


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = MADE(3, (4,), output=Own(NormalConditional()))
    with pytest.raises((ValueError, TypeError, NotImplementedError), match="own"):
        model.save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_state_dicts_go_round(case: Case) -> None:
    model, other = case.make(), made(case.output, case.option, features=case.features)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    context = context_of(model, 2)
    assert torch.equal(other.sample(5, context, seed=1), model.sample(5, context, seed=1))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["bernoulli-both", "mixed-residual", "ragged-context", "embedding-random"])
def test_what_the_network_computes_is_saved(tmp_path: Path, name: str, change: str) -> None:
    model = CASES[name].make()
    CHANGES[change](model)
    model.save(tmp_path / "model")
    other, context = MADE.load(tmp_path / "model"), context_of(model, 2)
    assert set(other.state_dict()) == set(CASES[name].make().state_dict())
    assert torch.equal(other.sample(50, context, seed=1), model.sample(50, context, seed=1))
    x = model.sample(3, seed=2) if context is None else model.sample(3, context[:1], seed=2)[0]
    torch.testing.assert_close(
        other.eval().log_prob(x, None if context is None else context[:1]),
        model.eval().log_prob(x, None if context is None else context[:1]),
    )


class _Same(MADE):
    """Passes everything on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)


class _Other(MADE):
    """Has arguments of its own."""

    def __init__(self, width: int) -> None:
        super().__init__(9, (width,), direct=True)


class _Fewer(MADE):
    """Has some of the arguments."""

    def __init__(self, features: int, seed: int = 3) -> None:
        super().__init__(features, (16,), order="random", seed=seed)


class _Plain(MADE):
    """Has no constructor of its own."""


@pytest.mark.parametrize(
    "make", [lambda: _Same(9, (16,)), lambda: _Other(16), lambda: _Fewer(9), lambda: _Plain(9, (16,), num_masks=2)]
)
def test_subclasses_are_saved_as_what_they_are(tmp_path: Path, make: Callable[[], MADE]) -> None:
    model = make()
    kind: Any = type(model)
    model.save(tmp_path / "model")
    assert torch.equal(MADE.load(tmp_path / "model").sample(9, seed=1), model.sample(9, seed=1))
    if kind in (_Same, _Plain):
        other = kind.load(tmp_path / "model")
        assert type(other) is kind
        assert torch.equal(other.sample(9, seed=1), model.sample(9, seed=1))
    else:
        with pytest.raises(ValueError, match=rf"arguments of MADE, which {kind.__name__} does not take .* MADE\.load"):
            kind.load(tmp_path / "model")


class _Twice(MADE):
    """Makes of its arguments what the file does not say."""

    def __init__(self, features: int, hidden_features: tuple[int, ...], **options: Any) -> None:
        super().__init__(features, [2 * width for width in hidden_features], **options)


class _WithMore(MADE):
    """Has a tensor that no MADE has."""

    def __init__(self, features: int) -> None:
        super().__init__(features, (8,))
        self.extra = nn.Linear(2, 2)


def test_what_is_no_made_is_refused(tmp_path: Path) -> None:
    _Twice(9, (4,)).save(tmp_path / "twice")
    assert MADE.load(tmp_path / "twice").hidden_features == (8,)
    with pytest.raises(ValueError, match="does not fit"):
        _Twice.load(tmp_path / "twice")
    with pytest.raises(ValueError, match=r"extra\.weight must have shape none, got \(2, 2\); save its state dict"):
        _WithMore(9).save(tmp_path / "more")
    mixed = MADE(9, (8,))
    mixed.hidden[0].double()
    with pytest.raises(ValueError, match="must have dtype"):
        mixed.save(tmp_path / "more")
    replaced = MADE(9, (8,))
    replaced.hidden[0] = nn.Sequential(replaced.hidden[0])
    with pytest.raises(ValueError, match="layers must be MaskedLinear, got Sequential"):
        replaced.save(tmp_path / "more")
    assert os.listdir(tmp_path) == ["twice"]


def test_weights_that_are_tied_are_saved(tmp_path: Path) -> None:
    model = MADE(9, (12, 12, 12))
    model.hidden[2].weight = model.hidden[1].weight
    model.save(tmp_path / "model")
    assert torch.equal(MADE.load(tmp_path / "model").sample(9, seed=1), model.sample(9, seed=1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize(
    "change", ["in place", "hooked weight norm", "hooked spectral norm", "pruned for good", "state dict"]
)
def test_copies_of_changed_models(copied: Callable[[MADE], MADE], change: str) -> None:
    model = CASES["bernoulli-both"].make()
    CHANGES[change](model)
    model.sample(1)
    if "hooked" in change:  # torch copies no tensors that were computed with gradients
        with torch.no_grad():
            model(torch.zeros(1, 9).double())
    other = copied(model)
    assert torch.equal(other.sample(9, seed=1), model.sample(9, seed=1))
