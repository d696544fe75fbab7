"""Law 7: samples follow the exact distribution: chi-square against the enumerated one, with a stated false-alarm rate.

Decoded samples follow the decoded one, which is written down anew here.
"""

import itertools
from typing import Any

import pytest
import torch
from models import (
    DOUBLE,
    FALSE_ALARM,
    FEATURES,
    FINITE,
    REAL,
    SINGLE,
    Case,
    cases_of,
    context_of,
    drawn_by,
    enumerated,
    p_value,
    states_of,
)
from scipy.stats import chi2, kstest
from torch import Tensor

from made_fast import MADE
from made_fast.masks.mask_set import EVALUATION_MASKS, masks_of_rows
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.testing import naive_sample, unexplained_differences

CATEGORICAL = [name for name, output in FINITE.items() if isinstance(output, Categorical)]


@drawn_by(
    cases=cases_of(FINITE, ["context", "random", "both", "belief_network"]),
    quick={"mixed_finite-context", "bernoulli-both", "ragged-random", "categorical-both"},
    interpreted=(),
)
def test_samples_follow_the_enumerated_distribution(backend: str, case: Case) -> None:
    model = case.make(SINGLE, 3)
    context, count = context_of(model, 1), 20_000 if backend != "triton" else 4000
    states, log_probs = enumerated(model, context)
    x = model.sample(count, context, seed=21, backend=backend).reshape(count, 3)
    assert p_value(x, states, log_probs.exp()) > FALSE_ALARM
    wrong = x.clone()
    wrong[::5] = states[0].to(wrong)  # the test can fail
    assert p_value(wrong, states, log_probs.exp()) < FALSE_ALARM


def test_so_do_those_of_the_naive_sampler() -> None:
    model = Case("mixed_finite", "random").make(SINGLE, 3)
    states, log_probs = enumerated(model)
    assert p_value(naive_sample(model, 20_000, seed=21), states, log_probs.exp()) > FALSE_ALARM


@pytest.mark.parametrize("option", ["orders", "conditioned", "ensemble_belief_network"])
def test_an_ensemble_draws_from_the_mean_and_one_mask_from_its_own(option: str) -> None:
    model = Case("bernoulli", option).make(SINGLE, 6)
    context = context_of(model, 1)
    states, mean = enumerated(model, context)
    with torch.no_grad():
        first = model.double().log_prob(states, None if context is None else context.double(), masks=0)
    model = model.float()
    x = model.sample(20_000, context, seed=21).reshape(-1, 6)
    assert p_value(x, states, mean.exp()) > FALSE_ALARM
    assert p_value(x, states, first.exp()) < FALSE_ALARM
    assert p_value(model.sample(20_000, context, seed=21, mask=0).reshape(-1, 6), states, first.exp()) > FALSE_ALARM


def test_rows_take_masks_uniformly_and_independently_of_all_else() -> None:
    rows = torch.arange(60_000)
    for num_masks in (2, 3, 7, EVALUATION_MASKS):
        found = masks_of_rows(5, rows, num_masks)
        expected = torch.full((num_masks,), len(rows) / num_masks, dtype=torch.float64)
        statistic = ((found.bincount(minlength=num_masks) - expected) ** 2 / expected).sum()
        assert chi2.sf(float(statistic), num_masks - 1) > FALSE_ALARM
        assert torch.equal(masks_of_rows(5, rows[77:99], num_masks), found[77:99])
    assert not torch.equal(masks_of_rows(6, rows, 3), masks_of_rows(5, rows, 3))
    assert masks_of_rows(5, rows[:0], 3).shape == (0,)


@drawn_by(
    cases=cases_of(REAL, ["context", "random", "orders"]),
    quick={"mixed-context", "mixture_of_normals-orders"},
    interpreted=(),
)
def test_real_variables_follow_their_conditionals(backend: str, case: Case) -> None:
    """What the conditional's cdf makes of each variable is uniform, and so is what it makes of products of two."""
    model, count = case.make(), 10_000 if backend != "triton" else 2000
    model = model.to(SINGLE if backend == "triton" else DOUBLE)
    context = context_of(model, 1)
    x = model.sample(count, context, seed=22, backend=backend, mask=0).reshape(count, FEATURES)
    with torch.no_grad():
        cdf = model.distribution(x, context, mask=0).cdf(x).double()
    real = [variable for variable, each in enumerate(model.conditionals) if each.size == 0]
    for variable in real:
        assert kstest(cdf[:, variable].numpy(), "uniform").pvalue > FALSE_ALARM
        assert kstest(cdf[:, variable].numpy() ** 1.2, "uniform").pvalue < FALSE_ALARM or count < 5000
    for one, other in itertools.pairwise(real):  # independent of each other
        assert kstest(((cdf[:, one] + cdf[:, other]) % 1).numpy(), "uniform").pvalue > FALSE_ALARM


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


def _check(backend: str, case: Case, **decoding: Any) -> None:
    """Samples follow the decoded law and not the model's, by the naive sampler's draws, with the model's log_prob."""
    model = case.make(SINGLE, 3)
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


@drawn_by(
    "temperature",
    cases=cases_of(FINITE, ["random", "context", "both"]),
    quick={"mixed_finite-random", "ragged-both", "bernoulli-context"},
    interpreted=(),
)
def test_temperature(backend: str, case: Case) -> None:
    _check(backend, case, temperature=0.4)
    _check(backend, case, temperature=3.0)


@drawn_by(
    "temperature", cases=cases_of(REAL, ["random", "context"]), quick={"mixed-random", "mixed-context"}, interpreted=()
)
def test_temperature_of_real_variables(backend: str, case: Case) -> None:
    """What the tempered conditional's cdf makes of each real variable is uniform: parts, not mixtures, are tempered."""
    model = case.make(SINGLE if backend == "triton" else DOUBLE)
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


@drawn_by(
    "greedy",
    cases=cases_of(options=["random", "context", "both", "residual"]),
    quick={"mixed-context", "mixed_finite-both", "mixture_of_normals-random", "bernoulli-residual"},
    interpreted=(),
)
def test_greedy(backend: str, case: Case) -> None:
    """Each variable is the mode given those before it; seeds and rows choose nothing but the mask."""
    model = case.make(SINGLE, FEATURES)
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


@drawn_by(
    "top_k", cases=cases_of(CATEGORICAL, ["random", "context", "both"]), quick={"ragged-random", "categorical-both"}
)
def test_top_k(backend: str, case: Case) -> None:
    _check(backend, case, top_k=2)
    model = case.make(SINGLE, FEATURES)
    context = context_of(model, 1)
    one = model.sample(50, context, seed=3, backend=backend, top_k=1)
    assert torch.equal(one, model.sample(50, context, seed=3, backend=backend, greedy=True))
    whole = model.sample(50, context, seed=3, backend=backend, top_k=9)
    assert torch.equal(whole, model.sample(50, context, seed=3, backend=backend))


@drawn_by("top_p", cases=cases_of(CATEGORICAL, ["random", "context", "both"]), quick={"ragged-context"})
def test_top_p(backend: str, case: Case) -> None:
    _check(backend, case, top_p=0.6)
    model = case.make(SINGLE, FEATURES)
    context = context_of(model, 1)
    least = model.sample(50, context, seed=3, backend=backend, top_p=1e-6)
    assert torch.equal(least, model.sample(50, context, seed=3, backend=backend, greedy=True))


@drawn_by("temperature", "top_k", "top_p", cases=cases_of(CATEGORICAL, ["random"]), quick={"ragged-random"})
def test_all_at_once(backend: str, case: Case) -> None:
    """The temperature first, then the k greatest, then the mass of what is left."""
    _check(backend, case, temperature=1.7, top_k=2, top_p=0.7)
