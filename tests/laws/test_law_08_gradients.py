"""Law 8: gradients: ``gradcheck`` and ``gradgradcheck`` in fp64; masked weights get exactly zero.

What ``torch.library.opcheck`` says of the operators stands in ``tests/layers/test_torch_citizen.py``.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import Case, context_of, made, valid
from torch import Tensor

from made_fast import MADE, MaskedLinear

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]


@pytest.mark.parametrize("bias", [True, False])
def test_masked_linear(bias: bool) -> None:
    mask = torch.rand(4, 5) < 0.5
    layer = MaskedLinear(5, 4, mask, bias=bias).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,)).tanh()

    assert torch.autograd.gradcheck(call, (x, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, *parameters))


class _LogProb(torch.nn.Module):
    """``log_prob`` as a forward, so that ``functional_call`` can put other parameters in."""

    def __init__(self, model: MADE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.model.log_prob(x, context)


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_features": (5,)},
        {"hidden_features": (), "direct": True},
        {"hidden_features": (4, 4), "residual": True, "direct": True, "context_features": 2, "order": "random"},
        {"hidden_features": (4, 3), "context_features": 1, "order": "reversed"},
    ],
    ids=["one_layer", "belief_network", "everything", "context"],
)
def test_log_prob(build: Build, make_context: Context, arguments: dict[str, Any]) -> None:
    model = build({**arguments, "activation": "tanh"}, features=4)
    x, context = (torch.rand(3, 4) < 0.5).double(), make_context(model, 3)
    module = _LogProb(model)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(context: Tensor | None, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, context))

    given = None if context is None else context.requires_grad_()
    assert torch.autograd.gradcheck(call, (given, *parameters))
    assert torch.autograd.gradgradcheck(call, (given, *parameters))


@pytest.mark.parametrize("output", ["categorical", "embedding", "mixture_of_logistics", "mixed"])
def test_log_prob_of_other_outputs(output: str) -> None:
    """First derivatives; those of the conditionals alone have a test of both."""
    model = made(output, "direct", features=2, activation="tanh")
    module, x = _LogProb(model), valid(output, 2, features=2)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, None))

    assert torch.autograd.gradcheck(call, parameters, fast_mode=True)


def test_masked_weights_get_no_gradient(case: Case) -> None:
    model = case.make()
    x = valid(case.output, 64, features=case.features)
    model.log_prob(x, context_of(model, 64), masks=0).sum().backward()
    layers = [module for module in model.modules() if isinstance(module, MaskedLinear)]
    assert layers
    layer_masks = model._layer_masks(0) or [None] * len(model.masked_layers)
    for layer, own in zip(model.masked_layers, layer_masks, strict=True):
        mask = layer.mask if own is None else _as_mask(own, layer)
        assert layer.weight.grad is not None
        assert not layer.weight.grad[~mask].any()
    assert any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def _as_mask(own: Tensor, layer: MaskedLinear) -> Tensor:
    rows = layer.weight.shape[0]
    return own if own.ndim == 2 else own[:rows, None] >= own[rows:]


@pytest.mark.parametrize("hidden_value", [1e30, torch.inf, torch.nan])
def test_what_lies_under_the_mask_has_no_effect(hidden_value: float) -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    layer = MaskedLinear(3, 2, mask)
    x = torch.randn(4, 3, requires_grad=True)
    expected = layer(x).detach()
    with torch.no_grad():
        layer.weight[~mask] = hidden_value
    found = layer(x)
    found.square().sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(layer.weight.grad[~mask], torch.zeros(2))
    assert x.grad.isfinite().all()
