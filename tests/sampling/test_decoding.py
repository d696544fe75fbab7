"""Decoding of whole models: temperature, greedy, top_k and top_p against enumeration, on every backend that has them."""

from typing import Any

import pytest
import torch
from models import (
    FALSE_ALARM,
    FINITE,
    REAL,
    context_of,
    drawn_by,
    enumerated,
    made,
    p_value,
    states_of,
)
from scipy.stats import kstest
from torch import Tensor

from made_fast import MADE
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.testing import unexplained_differences

SINGLE, DOUBLE = torch.float32, torch.float64
CATEGORICAL = [name for name, output in FINITE.items() if isinstance(output, Categorical)]
OPTIONS = ["random", "context", "both"]


def _probabilities(conditional: Conditional, params: Tensor, temperature: float) -> Tensor:
    """Of each value, (..., size), at a temperature; written down anew."""
    if conditional.code in (Code.BERNOULLI, Code.SPIN):
        high = torch.sigmoid(params[..., 0] / temperature)
        return torch.stack([1 - high, high], -1)
    if conditional.code == Code.CATEGORICAL:
        return torch.softmax(params / temperature, -1)
    logits, locs, raw = params.unflatten(-1, (3, conditional.components)).unbind(-2)
    scales = (torch.nn.functional.softplus(raw) + conditional.floor) * temperature
    edges = (torch.arange(1, conditional.size).double() * 2 - 1) / (conditional.size - 1) - 1
    below = torch.sigmoid((edges - locs[..., None]) / scales[..., None])  # (..., k, size - 1)
    below = torch.cat([torch.zeros_like(below[..., :1]), below, torch.ones_like(below[..., :1])], -1)
    return (torch.softmax(logits / temperature, -1)[..., None] * below.diff(dim=-1)).sum(-2)


def _kept(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """Cut to the k greatest, then to the fewest with the mass p of what remained; one row after another, in plain Python."""
    found = torch.zeros_like(probabilities)
    for row, own in enumerate(probabilities.tolist()):
        ranked = sorted(range(len(own)), key=lambda value: -own[value])[: top_k or None]
        whole, mass = sum(own[value] for value in ranked), 0.0
        for value in ranked:
            if mass >= top_p * whole:
                break
            mass += own[value]
            found[row, value] = own[value]
    return found / found.sum(-1, keepdim=True)


@torch.no_grad()
def _law(
    model: MADE, context: Tensor | None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """All states (S, D) and with which probability each is drawn, (S,); the mean over masks."""
    model, states = model.double(), states_of(model)
    context = None if context is None else context.double()
    masks = [0] if model.ensemble is None else list(model.ensemble.evaluated)
    total = torch.zeros(len(states), dtype=DOUBLE)
    for mask in masks:
        params, share = model(states, context, mask=mask), torch.ones(len(states), dtype=DOUBLE)
        for variable, own in enumerate(params.split(model.params_per_variable, -1)):
            conditional = model.conditionals[variable]
            probabilities = _probabilities(conditional, own, temperature)
            if top_k or top_p < 1:
                probabilities = _kept(probabilities, top_k, top_p)
            values = conditional.values()
            assert values is not None
            place = (states[:, variable, None] == values).long().argmax(-1)
            share = share * probabilities.gather(-1, place[:, None])[:, 0]
        total += share / len(masks)
    assert abs(total.sum().item() - 1) < 1e-9
    return states, total


def _check(backend: str, output: str, option: str, **decoding: Any) -> None:
    """Samples follow the decoded law and not the model's, by the naive sampler's draws, with the model's log_prob."""
    model = made(output, option, SINGLE, features=3)
    context, count = context_of(model, 1), 10_000 if backend != "triton" else 2000
    x, log_prob = model.sample_and_log_prob(count, context, seed=31, backend=backend, **decoding)
    assert not unexplained_differences(model, x[..., :300, :], context, seed=31, **decoding).any()
    flat = x.reshape(count, 3)
    with torch.no_grad():
        nats = model.log_prob(x, None if context is None else context[:, None])
    torch.testing.assert_close(log_prob, nats, rtol=5e-5, atol=5e-5)
    plain = enumerated(model, context)
    assert p_value(flat, plain[0], plain[1].exp()) < FALSE_ALARM, "decoding must change the law"
    assert p_value(flat, *_law(model, context, **decoding)) > FALSE_ALARM


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("temperature", outputs=FINITE, options=OPTIONS))
def test_temperature(backend: str, output: str, option: str) -> None:
    _check(backend, output, option, temperature=0.4)
    _check(backend, output, option, temperature=3.0)


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("temperature", outputs=REAL, options=OPTIONS[:2]))
def test_temperature_of_real_variables(backend: str, output: str, option: str) -> None:
    """What the tempered conditional's cdf makes of each real variable is uniform: parts, not mixtures, are tempered."""
    model = made(output, option, SINGLE if backend == "triton" else DOUBLE)
    context, count, temperature = context_of(model, 1), 4000 if backend != "triton" else 1000, 0.25
    x, log_prob = model.sample_and_log_prob(count, context, seed=9, backend=backend, temperature=temperature)
    x = x.reshape(count, -1)
    with torch.no_grad():
        torch.testing.assert_close(log_prob.flatten(), model.log_prob(x, context), rtol=1e-4, atol=1e-4)
        params = model(x, context).double()
    for variable, own in enumerate(params.split(model.params_per_variable, -1)):
        conditional = model.conditionals[variable]
        if conditional.size:
            continue
        k = max(1, conditional.components)
        logits = own[:, :k] if conditional.components else torch.zeros(count, 1, dtype=DOUBLE)
        locs, raw = own[:, -2 * k : -k], own[:, -k:]
        scales = torch.nn.functional.softplus(raw) + conditional.floor
        uniform = {}
        for factor in (temperature, 1.0):
            z = (x[:, variable, None].double() - locs) / (scales * factor**0.5)
            uniform[factor] = (torch.softmax(logits / factor, -1) * torch.special.ndtr(z)).sum(-1)
        assert kstest(uniform[temperature].numpy(), "uniform").pvalue > FALSE_ALARM
        assert kstest(uniform[1.0].numpy(), "uniform").pvalue < FALSE_ALARM


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("greedy", outputs=[*FINITE, *REAL], options=[*OPTIONS, "residual"])
)
def test_greedy(backend: str, output: str, option: str) -> None:
    """Each variable is the mode given those before it; seeds and rows choose nothing but the mask."""
    model = made(output, option, SINGLE)
    context = context_of(model, 2)
    x, log_prob = model.sample_and_log_prob(20, context, seed=1, backend=backend, greedy=True)
    with torch.no_grad():
        nats = model.log_prob(x, None if context is None else context[:, None])
        torch.testing.assert_close(log_prob, nats, rtol=1e-4, atol=1e-4)
        rows = x.reshape(-1, model.features)
        repeated = None if context is None else context.repeat_interleave(20, 0)
        modes = [model.distribution(rows, repeated, mask=mask).mode for mask in range(max(1, model.num_masks))]
    fits = [((mode - rows).abs() < 1e-4).all(1) for mode in modes]
    assert torch.stack(fits).any(0).all()
    if model.ensemble is None:
        assert torch.equal(x, x[..., :1, :].expand_as(x))
        again = model.sample(20, context, seed=2, backend=backend, greedy=True)
        assert torch.equal(again, x)


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("top_k", outputs=CATEGORICAL, options=OPTIONS))
def test_top_k(backend: str, output: str, option: str) -> None:
    _check(backend, output, option, top_k=2)
    model = made(output, option, SINGLE)
    context = context_of(model, 1)
    one = model.sample(50, context, seed=3, backend=backend, top_k=1)
    assert torch.equal(one, model.sample(50, context, seed=3, backend=backend, greedy=True))
    whole = model.sample(50, context, seed=3, backend=backend, top_k=9)
    assert torch.equal(whole, model.sample(50, context, seed=3, backend=backend))


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("top_p", outputs=CATEGORICAL, options=OPTIONS))
def test_top_p(backend: str, output: str, option: str) -> None:
    _check(backend, output, option, top_p=0.6)
    model = made(output, option, SINGLE)
    context = context_of(model, 1)
    least = model.sample(50, context, seed=3, backend=backend, top_p=1e-6)
    assert torch.equal(least, model.sample(50, context, seed=3, backend=backend, greedy=True))


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("temperature", "top_k", "top_p", outputs=CATEGORICAL, options=["random"])
)
def test_all_at_once(backend: str, output: str, option: str) -> None:
    """The temperature first, then the k greatest, then the mass of what is left."""
    _check(backend, output, option, temperature=1.7, top_k=2, top_p=0.7)


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("temperature", options=["context"]))
def test_law_4_under_a_temperature(backend: str, output: str, option: str) -> None:
    model = made(output, option, SINGLE)
    context = context_of(model, 1)
    options: dict[str, Any] = {"seed": 5, "backend": backend, "temperature": 0.6}
    whole = model.sample(40, context, **options)
    part = model.sample(10, context, first_row=15, **options)
    if backend == "reference":
        torch.testing.assert_close(part, whole[:, 15:25], rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(part, whole[:, 15:25])
