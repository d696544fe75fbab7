"""bf16 weights: not exact, so what is held to account is the error that the documentation states."""

from __future__ import annotations

import pytest
import torch

from made_fast import MADE, Sampler, build_config
from made_fast.testing import unexplained_differences

needs_bf16 = pytest.mark.skipif(not build_config().get("bf16"), reason="this processor has no bf16 instruction")
OPTIONS = [
    {},
    {"direct": True, "order": "random"},
    {"residual": True, "activation": "gelu"},
    {"context_features": 3, "direct": True, "degrees": "random"},
]


def _model(features: int = 30, **options: object) -> MADE:
    torch.manual_seed(1)
    return MADE(features, (50, 50), **options)


@needs_bf16
@pytest.mark.parametrize("choice", OPTIONS)
def test_draws_follow_the_model_nearly(choice: dict[str, object]) -> None:
    model = _model(**choice)
    context = torch.randn(1, 3) if model.context_features else None
    sampler = model.sampler(bf16_weights=True)
    x, log_prob = sampler.sample_and_log_prob(2000, context, seed=3)
    x, log_prob = x.reshape(2000, -1), log_prob.reshape(2000)
    rows = None if context is None else context.expand(2000, 3)
    assert not unexplained_differences(model, x, seed=3, context=rows, tolerance=4e-3).any()
    exact = model.log_prob(x, rows).detach()
    assert (log_prob - exact).abs().max() < 0.1
    divergence = (log_prob - exact).mean().item()  # Kullback-Leibler, in nats
    assert abs(divergence) < 4e-3


@needs_bf16
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_their_neighbours(threads: int) -> None:
    sampler = _model(features=33, direct=True).sampler(bf16_weights=True)
    before = torch.get_num_threads()
    whole, nats = sampler.sample_and_log_prob(500, seed=9)
    try:
        torch.set_num_threads(threads)
        for a, b in ((0, 1), (3, 4), (17, 60), (100, 500)):
            part, part_nats = sampler.sample_and_log_prob(b - a, seed=9, first_row=a)
            assert torch.equal(part, whole[a:b])
            assert torch.equal(part_nats, nats[a:b])
    finally:
        torch.set_num_threads(before)


@needs_bf16
def test_weights_that_bf16_holds_and_binary_values_are_exact() -> None:
    """Without hidden units nothing is rounded but the weights."""
    model = MADE(20, (), direct=True)
    with torch.no_grad():
        model.parameters_layer.weight.copy_(torch.randn(20, 20).bfloat16())
    x = model.sampler(bf16_weights=True).sample(300, seed=2)
    assert torch.equal(x, model.sample(300, seed=2))


def test_who_cannot_says_so() -> None:
    with pytest.raises(ValueError, match="bf16"):
        Sampler(_model().program(), _model().output, backend="reference", bf16_weights=True)
    with pytest.raises(ValueError, match="bf16"):
        _model().double().sampler(bf16_weights=True)
