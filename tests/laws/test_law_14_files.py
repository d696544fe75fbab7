"""Law 14: what is saved can be loaded, or saving says why not."""

import os
from pathlib import Path

import pytest
import torch
from models import CASES, Case, context_of, made

from made_fast import MADE
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.own import Own


def test_a_model_comes_back(tmp_path: Path, case: Case) -> None:
    for dtype in (torch.float32, torch.float64) if not case.quick else (torch.float32,):
        model, path = case.make(dtype), tmp_path / "model.safetensors"
        model.save(path)
        other = MADE.load(str(path)).eval()
        assert other.config() == model.config()
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
