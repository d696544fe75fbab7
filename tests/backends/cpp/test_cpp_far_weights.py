"""Transposed weights whose lines lie a whole number of KiB or pages apart, which are brought together to be multiplied."""

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from made_fast import MADE, build_config
from made_fast.masks.plan_cache import find_plan
from made_fast.training import backward

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
SETS = build_config()["instruction_sets"] if build_config()["compiled"] else ()
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(300, 37, 256), (300, 150, 512), (40, 300, 1024), (1, 20, 256)]
)
def test_gradients_of_the_input(isa: str, dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    """Some columns are read by a part of a group alone, and the last group has fewer rows than the others."""
    engine: Any = importlib.import_module("made_fast.backends.cpp.engine")
    generator = torch.Generator().manual_seed(outputs)
    degrees = torch.randint(50, (outputs + inputs,), generator=generator)
    mask = degrees[:outputs, None] >= degrees[outputs:].sort().values
    weight, grad = (torch.randn(shape, generator=generator, dtype=dtype) for shape in (mask.shape, (rows, outputs)))
    found = engine.masked_linear_grad_input(grad, weight, find_plan(mask, tuple(mask.shape)), isa=isa)
    expected = grad.double() @ (weight * mask).double()
    assert float((found - expected).abs().max() / expected.abs().max()) < LIMITS[dtype]


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 1024), (torch.float64, 512)])
@pytest.mark.parametrize("direct", [False, True])
def test_a_backward_pass(
    monkeypatch: pytest.MonkeyPatch, isa: str, dtype: torch.dtype, width: int, direct: bool
) -> None:
    """More columns than are brought together at once."""
    monkeypatch.setenv("MADE_FAST_ISA", isa)
    torch.manual_seed(0)
    model = MADE(6, (width, 300), direct=direct, dtype=dtype)
    x = (torch.rand(100, 6) < 0.5).to(dtype)
    backward(model, x)
    leaves = {name: each.detach().double().requires_grad_() for name, each in model.named_parameters()}
    z = x.double()
    for number, layer in enumerate(model.hidden):
        name = f"hidden.{number}"
        z = torch.relu(F.linear(z, leaves[f"{name}.weight"] * layer.mask, leaves[f"{name}.bias"]))
    last = model.parameters_layer
    logits = F.linear(z, leaves["parameters_layer.weight"] * last.mask, leaves["parameters_layer.bias"])
    if direct:
        logits = logits + F.linear(x.double(), leaves["direct_layer.weight"] * model.direct_layer.mask)
    F.binary_cross_entropy_with_logits(logits, x.double(), reduction="sum").div(len(x)).backward()
    for name, each in model.named_parameters():
        expected = leaves[name].grad
        assert expected is not None and each.grad is not None
        assert float((each.grad - expected).abs().max() / expected.abs().max()) < LIMITS[dtype], name
