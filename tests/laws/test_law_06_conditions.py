"""Law 6: observed variables come back unchanged, and the rest follow the exact conditional (enumerated for small D)."""

import functools
from typing import Any

import torch
from conditions import CONDITIONS, arguments_of
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
    dtypes_of,
    enumerated,
    inside,
    made,
    p_value,
    some_allowed,
)
from torch import Tensor

from made_fast import MADE
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Between
from made_fast.sampling.draws import WeightedSamples
from made_fast.testing import unexplained_differences

HELD = {"mixed-context", "mixed_finite-both", "mixture_of_normals-random", "ragged-context"}


def _weights_of(model: MADE, x: Tensor, kind: str, output: str) -> Tensor:
    """The log-weight that these rows (8 * 5 or 5) should have, from the model's own conditionals in fp64."""
    arguments, rows = arguments_of(output, kind), len(x)
    conditions, _, count = conditions_of(
        model.conditionals, arguments.get("given"), arguments.get("observed"), arguments.get("allowed"), None
    )
    assert conditions is not None
    each = torch.arange(rows) // 5 if count else torch.zeros(rows, dtype=torch.int64)
    exact, total, at = x.double(), torch.zeros(rows, dtype=DOUBLE), 0
    context = context_of(model.double(), 8)
    context = None if context is None else context[torch.arange(rows) // 5]
    with torch.no_grad():
        params = model(exact, context, mask=0)
    for variable, conditional in enumerate(model.conditionals):
        own = params[:, at : at + conditional.num_params]
        at += conditional.num_params
        if conditions.support is not None and conditions.constrained[variable]:
            allowed = conditions.allowed_of(model.conditionals, variable)[each]
            mass = conditional.draw_within(own, torch.full((rows, 2), 0.5), allowed)[1]
        else:
            mass = torch.zeros(rows, dtype=DOUBLE)
        if conditions.observed is not None:
            mass = torch.where(
                conditions.observed[each, variable].bool(), conditional.log_prob(own, exact[:, variable]), mass
            )
        total += mass
    return total


@drawn_by("given", "allowed", cases=cases_of(options=["context", "both", "random"]), quick=HELD, interpreted=())
def test_samplers_keep_what_is_given_and_allowed(backend: str, case: Case) -> None:
    """Observed values to the bit, the rest within what is allowed, by the same draw as the naive sampler's."""
    for kind in CONDITIONS:
        for dtype in dtypes_of(backend):
            model, arguments = case.make(dtype, FEATURES), arguments_of(case.output, kind)
            context = context_of(model, 8)
            x, log_prob, log_weight = model.sample_and_log_prob(5, context, seed=7, backend=backend, **arguments)
            drawn = model.sample(5, context, seed=7, backend=backend, **arguments)
            assert isinstance(drawn, WeightedSamples)
            assert torch.equal(drawn.x, x)
            assert torch.equal(drawn.log_weight, log_weight)
            assert x.shape == (*log_weight.shape, FEATURES)
            assert log_weight.shape == log_prob.shape == ((5,) if context is None and kind == "one for all" else (8, 5))
            assert not unexplained_differences(model, x, context, seed=7, **arguments).any()
            model.output.check(x)
            if "given" in arguments:
                observed = arguments["observed"][..., None, :].expand(x.shape)
                given = arguments["given"].to(dtype)[..., None, :].expand(x.shape)
                assert torch.equal(x[observed], given[observed])
            queries = arguments.get("allowed", {})
            for row in range(8 if x.ndim == 3 else 1):
                query = queries if isinstance(queries, dict) else queries[row]
                assert inside((x[row] if x.ndim == 3 else x).double(), query).all()
            with torch.no_grad():
                nats = model.log_prob(x, None if context is None else context[:, None])
            torch.testing.assert_close(log_prob, nats, rtol=5e-5, atol=5e-5)
            if model.ensemble is None:
                expected = _weights_of(model, x.reshape(-1, FEATURES), kind, case.output).reshape(log_weight.shape)
                torch.testing.assert_close(log_weight.double(), expected, rtol=1e-4, atol=1e-4)


@drawn_by(
    "given",
    cases=cases_of(FINITE, ["context", "random"]),
    quick={"mixed_finite-random", "categorical-context", "bernoulli-context"},
    interpreted=(),
)
def test_what_follows_an_observed_prefix_is_exact(backend: str, case: Case) -> None:
    """Samples follow the enumerated conditional; all weights are the log-probability of what is observed."""
    model = case.make(SINGLE, 3)
    context, count = context_of(model, 1), 10_000 if backend != "triton" else 2000
    states, log_probs = enumerated(model, context)
    for length in (1, 2):
        prefix = model.order[:length]
        observed = torch.zeros(3, dtype=torch.bool).index_fill(0, prefix, True)
        given = states[int(log_probs.argsort()[len(states) // 2])]
        matching = (states[:, prefix] == given[prefix]).all(1)
        log_marginal = log_probs[matching].logsumexp(0)
        drawn = model.sample(count, context, seed=13, given=given, observed=observed, backend=backend)
        expected = torch.where(matching, log_probs - log_marginal, -torch.inf).exp()
        assert p_value(drawn.x.reshape(count, 3), states, expected) > FALSE_ALARM
        torch.testing.assert_close(
            drawn.log_weight.double().flatten(), log_marginal.expand(count), rtol=1e-4, atol=1e-4
        )
        estimate = model.log_marginal(given, observed, 10, context, seed=1, backend=backend)
        torch.testing.assert_close(estimate.value.flatten(), log_marginal[None], rtol=1e-4, atol=1e-4)
        assert estimate.standard_error.max() < 1e-5


def _close_to(estimate: Any, exact: Tensor, slack: float = 1e-5) -> bool:
    error = (estimate.value - exact).abs()
    return bool((error <= 5 * estimate.standard_error + slack).all())


@drawn_by(
    "given",
    "allowed",
    cases=cases_of(FINITE, ["random", "both", "direct"]),
    quick={"mixed_finite-both", "bernoulli-random", "mixture_of_logistics-direct"},
    interpreted=(),
)
def test_weighted_samples_follow_the_conditional(backend: str, case: Case) -> None:
    """What is observed or allowed anywhere: weighted means of indicators, within five standard errors."""
    model = case.make(SINGLE, 3)
    count = 10_000 if backend != "triton" else 2000
    states, log_probs = enumerated(model)
    given, last = states[int(log_probs.argmax())], int(model.order[-1])
    observed = torch.arange(3) == last
    query = some_allowed(case.output, 3)
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({"given": given, "observed": observed}, states[:, last] == given[last]),
        ({"allowed": query}, inside(states, query)),
        ({"allowed": {last: {float(given[last])}}}, states[:, last] == given[last]),
    ]
    for arguments, matching in cases:
        exact = log_probs[matching].logsumexp(0)
        posterior = torch.where(matching, log_probs - exact, -torch.inf).exp()
        drawn = model.sample(count, seed=17, backend=backend, **arguments)
        weight = drawn.log_weight.double().exp()
        for variable in range(3):
            for value in states[:, variable].unique():
                hit = (drawn.x[:, variable] == value).double()
                share = (weight * hit).sum() / weight.sum()
                error = ((weight * (hit - share)) ** 2).sum().sqrt() / weight.sum()
                wanted = posterior[states[:, variable] == value].sum()
                assert (share - wanted).abs() <= 5 * error + 1e-3, (arguments, variable, value)
        if "given" in arguments:
            assert _close_to(model.log_marginal(given, observed, count, seed=3, backend=backend), exact)
        else:
            estimate = model.estimate_probability(arguments["allowed"], count, seed=3, backend=backend)
            assert _close_to(estimate, exact.exp())


@functools.cache
def _grid(output: str, option: str) -> tuple[Tensor, Tensor]:
    """Points 0.05 apart, with 0 among them, and the probability around each."""
    model = made(output, option, features=2)
    columns = [
        torch.arange(-800, 801).double() * 0.05 if not each.size else each.values() for each in model.conditionals
    ]
    states = torch.cartesian_prod(*columns)
    with torch.no_grad():
        return states, model.log_prob(states).exp() * 0.05 ** sum(not each.size for each in model.conditionals)


@drawn_by("given", "allowed", cases=cases_of(REAL, ["random"]), quick={"mixed-random"}, interpreted=())
def test_probabilities_of_real_variables(backend: str, case: Case) -> None:
    """Against integrals over two variables, by the trapezoid rule."""
    dtype = SINGLE if backend == "triton" else DOUBLE
    model, (states, probabilities) = case.make(features=2), _grid(case.output, case.option)
    model, count = model.to(dtype), 4000 if backend != "triton" else 1000
    first, last = model.order.tolist()
    ends = {variable: Between(-0.975, 0.525) for variable in range(2) if not model.conditionals[variable].size}
    other = {variable: {1.0} for variable in range(2) if model.conditionals[variable].size}
    for query in ({**ends, **other}, ends):  # ends lie between two points of the grid
        exact = probabilities[inside(states, query)].sum()
        estimate = model.estimate_probability(query, count, seed=3, backend=backend)
        assert (estimate.value - exact).abs() <= 5 * estimate.standard_error + 2e-3
        assert 0 <= estimate.value <= 1
    given = torch.zeros(2, dtype=dtype)
    density = probabilities[(states[:, last] == 0)].sum() / (0.05 if not model.conditionals[last].size else 1)
    estimate = model.log_marginal(given, torch.arange(2) == last, count, seed=3, backend=backend)
    assert (estimate.value - density.log()).abs() <= 5 * estimate.standard_error + 1e-2
    exact = model.log_marginal(given, torch.arange(2) == first, 7, seed=3, backend=backend)
    assert exact.standard_error < 1e-6
    with torch.no_grad():
        params = model.distribution(given).params
    at = sum(each.num_params for each in model.conditionals[:first])
    own = params[at : at + model.conditionals[first].num_params]
    torch.testing.assert_close(exact.value.float(), model.conditionals[first].log_prob(own, given[first]).float())


def test_a_model_estimates_as_its_sampler_does() -> None:
    model = made("categorical", "both", SINGLE)
    x, observed, query = torch.zeros(FEATURES), torch.arange(FEATURES) == 1, {0: {1, 2}, 2: Between(high=1)}
    for mask in (None, 2):
        sampler = model.sampler(mask=mask)
        found = model.log_marginal(x, observed, 50, seed=3, mask=mask)
        assert found == sampler.log_marginal(x, observed, 50, seed=3)
        probability = model.estimate_probability(query, 50, seed=3, mask=mask)
        assert probability == sampler.estimate_probability(query, 50, seed=3)
    assert model.log_marginal(x, observed, 50, seed=3, mask=0) != found
