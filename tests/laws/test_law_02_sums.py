"""Law 2: the probabilities of all x sum to 1, for every order, ensemble and option; densities integrate to 1."""

import math

import pytest
import torch
from models import CASES, DOUBLE, ENSEMBLES, FINITE, REAL, Case, cases_of, context_of, made, masks_of, states_of

from made_fast.masks.mask_set import EVALUATION_MASKS


def test_probabilities_sum_to_one(case: Case) -> None:
    if case.output in REAL:
        pytest.skip("its densities are integrated below")
    model = case.make()
    context, states = context_of(model, 2), states_of(model)
    with torch.no_grad():
        for each in [None] if context is None else list(context):
            for mask in masks_of(model):
                assert abs(model.log_prob(states, each, masks=mask).logsumexp(0).item()) < 1e-12


@pytest.mark.parametrize("option", ENSEMBLES)
def test_the_mean_over_masks_sums_to_one(option: str) -> None:
    """And is the mean of probabilities, not of logits or of log-probabilities."""
    model = made("bernoulli", option, features=6)
    context, states = context_of(model, 1), states_of(model)
    with torch.no_grad():
        alone = torch.stack([model.log_prob(states, context, masks=mask) for mask in model.ensemble.evaluated])
        mean = model.log_prob(states, context)
    assert len(alone) == (model.num_masks or EVALUATION_MASKS)
    assert alone.logsumexp(1).abs().max() < 1e-13
    assert abs(mean.logsumexp(0).item()) < 1e-13
    torch.testing.assert_close(mean, alone.logsumexp(0) - math.log(len(alone)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("option", ["natural", "random", "residual_direct_context", "belief_network"])
def test_twelve_variables(option: str) -> None:
    model = made("bernoulli", option, features=12)
    with torch.no_grad():
        assert abs(model.log_prob(states_of(model), context_of(model, 1)).logsumexp(0).item()) < 1e-13


SOME = cases_of(REAL, ["natural", "random", "belief_network", "residual", "orders"])


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.option in ("random", "orders") else pytest.mark.slow) for case in SOME],
    ids=lambda case: case.name,
)
def test_densities_integrate_to_one(case: Case) -> None:
    """Over two variables; the scales are wide against the step. A kink of the network costs digits, a leak costs more."""
    model = case.make(features=2)
    ends, count = (30, 401) if case.option in ("random", "orders") else (90, 1801)
    line = torch.linspace(-ends, ends, count, dtype=DOUBLE)
    columns = [line if each.size == 0 else each.values() for each in model.conditionals]
    with torch.no_grad():
        total = model.log_prob(torch.cartesian_prod(*columns)).exp().sum()
    total *= (2 * ends / (count - 1)) ** sum(each.size == 0 for each in model.conditionals)
    assert abs(total.item() - 1) < 1e-3


def test_finite_outputs_are_all_there() -> None:
    """What is not integrated is summed."""
    assert {case.output for case in CASES.values() if case.quick} == {*FINITE, *REAL}
